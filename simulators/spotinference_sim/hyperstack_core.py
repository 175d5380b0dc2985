"""The fleet side of the simulated Hyperstack: machines, volumes, events, flavors, regions, price book.

Owns `/core` and `/pricebook`. Does not own money that was spent (`hyperstack_billing`, `hyperstack_history`).

Source: Hyperstack API, core endpoints, as documented in 2026-11.
"""

from collections.abc import Hashable

from spotinference_sim.hyperstack_calls import Call, Json, core_page, not_found, searched
from spotinference_sim.instants import text_s
from spotinference_sim.prices import FLAVORS, Flavor, price_text, usd_per_hour
from spotinference_sim.resources import Resource, Vm, Volume
from spotinference_sim.scenario import ORG_ID, Scenario

REGION = "CANADA-1"
POWER = {
    "CREATING": (None, None),
    "SHUTOFF": ("SHUTDOWN", "stopped"),
    "STARTING": ("SHUTDOWN", "stopped"),
    "HIBERNATED": ("SHUTDOWN", "shelved_offloaded"),
    "RESTORING": ("SHUTDOWN", "shelved_offloaded"),
}
"""power_state and vm_state; every other state runs."""
FEATURES: Json = {"network_optimised": True, "green_status": "GREEN"}
FLAVOR_FEATURES: Json = {
    "network_optimised": True,
    "no_reboot": False,
    "no_hibernation": False,
    "no_snapshot": False,
    "local_storage_only": False,
    "api_only": False,
}
ENVIRONMENT: Json = {
    "id": 55,
    "name": "default-CANADA-1",
    "org_id": ORG_ID,
    "region": REGION,
    "features": FEATURES,
}


def _flavor(flavor: Flavor) -> Json:
    sizes = {name: getattr(flavor, name) for name in ("cpu", "ram", "disk", "ephemeral", "gpu", "gpu_count")}
    return {"id": flavor.id, "name": flavor.name, **sizes, "labels": [], "features": FLAVOR_FEATURES}


class HyperstackCore:
    """Answers about what exists."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario

    def fleet_key(self, now_s: int) -> Hashable:
        """Name everything that the machine list depends on: equal keys, equal lists."""
        return tuple(spell.start_s if (spell := r.spell_at(now_s)) else None for r in self._scenario.resources)

    def vms(self, call: Call) -> Json:
        """List the machines, oldest first; deleted ones are gone."""
        rows = [self._vm(vm, call.now_s) for vm in self._scenario.vms if vm.spell_at(call.now_s)]
        return core_page(call, "instances", searched(call, rows), "Getting VMs successful")

    def vm(self, call: Call) -> Json:
        """Show one machine."""
        return {
            "status": True,
            "message": "Getting VM success",
            "instance": self._vm(self._find_vm(call), call.now_s),
        }

    def vm_events(self, call: Call) -> Json:
        """List what happened to a machine so far; every second instant comes without a zone."""
        vm = self._find_vm(call)
        rows = [
            {
                "instance_id": vm.id,
                "user_id": 8,
                "org_id": ORG_ID,
                "time": text_s(event.at_s) + ("Z" if place % 2 else ""),
                "type": "normal",
                "reason": event.reason,
                "object": vm.name,
                "message": f"{event.reason} for {vm.name}",
            }
            for place, event in enumerate(vm.events)
            if event.at_s <= call.now_s
        ]
        return {"status": True, "message": "Getting VM events success", "instance_events": rows}

    def volumes(self, call: Call) -> Json:
        """List the volumes."""
        rows = [self._volume(v, call.now_s) for v in self._scenario.volumes if v.spell_at(call.now_s)]
        return core_page(call, "volumes", searched(call, rows), "Getting volumes successful")

    def volume(self, call: Call) -> Json:
        """Show one volume."""
        for volume in self._scenario.volumes:
            if volume.id == call.id and volume.spell_at(call.now_s):
                row = self._volume(volume, call.now_s)
                return {"status": True, "message": "Getting volume success", "volume": row}
        raise not_found(f"Volume {call.id} does not exist.")

    def snapshots(self, call: Call) -> Json:
        """List the snapshots: none."""
        return core_page(call, "snapshots", [], "Getting snapshots successful")

    def flavors(self, _call: Call) -> Json:
        """List the flavors, grouped by GPU."""
        by_gpu: dict[str, list[Json]] = {}
        for flavor in FLAVORS.values():
            row = _flavor(flavor) | {
                "display_name": flavor.name,
                "region_name": REGION,
                "stock_available": True,
            }
            by_gpu.setdefault(flavor.gpu, []).append(row)
        groups = [{"gpu": gpu, "region_name": REGION, "flavors": rows} for gpu, rows in by_gpu.items()]
        return {"status": True, "message": "Getting flavors success", "data": groups}

    def environments(self, call: Call) -> Json:
        """List the environments: one."""
        rows = [ENVIRONMENT | {"created_at": text_s(self._scenario.start_s)}]
        return core_page(call, "environments", rows, "Getting environments successful")

    def regions(self, call: Call) -> Json:
        """List the regions."""
        rows = [{"id": 2, "name": REGION, "description": "", "country": "Canada", "features": FEATURES}]
        return core_page(call, "regions", rows, "Getting regions successful")

    def price_book(self, call: Call) -> list[Json]:
        """List all prices: a bare array with money as text."""
        rows: list[Json] = []
        for place, name in enumerate(self._scenario.prices.names(), start=1):
            text = price_text(self._scenario.prices.nanos(name, call.now_s))
            dates = {"start_time": None, "end_time": None}
            row = {
                "id": place,
                "name": name,
                "value": text,
                "original_value": text,
                "discount_applied": False,
            }
            rows.append(row | dates)
        return rows

    def contracts(self, _call: Call) -> Json:
        """List the contracts: none."""
        return {"status": True, "message": "Contracts retrieved successfully", "contracts": [], "count": 0}

    def calculate(self, call: Call) -> Json:
        """Show the present rate of one resource by part."""
        kind = call.groups["kind"]
        resources: tuple[Resource, ...] = (
            self._scenario.volumes if kind == "volume" else self._scenario.vms if kind != "cluster" else ()
        )
        for resource in resources:
            spell = resource.spell_at(call.now_s)
            if resource.id == call.id and spell:
                prices = {"price": usd_per_hour(spell.rate), "actual_price": usd_per_hour(spell.rate)}
                parts = [
                    {"type": name, "name": name, "amount": 1, "rate": usd_per_hour(nanos)}
                    | {"discounted_rate": usd_per_hour(nanos)}
                    | {"price": usd_per_hour(nanos), "actual_price": usd_per_hour(nanos)}
                    for name, nanos in spell.parts
                ]
                about = {
                    "type": kind,
                    "name": resource.name,
                    "infrahub_id": resource.id,
                    "status": spell.status,
                }
                row = {**about, "host": None, **prices, "resources": parts}
                wrapped = {"org_id": ORG_ID, "resource": row}
                return {"status": True, "message": "Calculated", "calculated_resource_bills": wrapped}
        raise not_found(f"{kind} {call.id} does not exist.")

    def _find_vm(self, call: Call) -> Vm:
        vm = self._scenario.vm_by_id.get(call.id)
        if vm is None or vm.spell_at(call.now_s) is None:
            raise not_found(f"Virtual machine {call.id} does not exist.")
        return vm

    def _vm(self, vm: Vm, now_s: int) -> Json:
        spell = vm.spell_at(now_s)
        assert spell is not None
        power_state, vm_state = POWER.get(spell.status, ("RUNNING", "active"))
        runs = sum(wake.active_s <= now_s for wake in vm.wakes)
        address = f"203.0.113.{(vm.id + (0 if vm.retain_ip else 7 * runs)) % 250 + 2}"
        attached = [v for v in self._scenario.volumes if v.attached_to == vm.id and v.spell_at(now_s)]
        return {
            "id": vm.id,
            "name": vm.name,
            "status": spell.status,
            "power_state": power_state,
            "vm_state": vm_state,
            "environment": ENVIRONMENT,
            "image": None,
            "os": "Ubuntu Server 22.04 LTS R570 CUDA 12.8 with Docker",
            "flavor": _flavor(vm.flavor),
            "keypair": {"name": "ops"},
            "volume_attachments": [self._attachment(volume) for volume in attached],
            "fixed_ip": f"10.0.0.{vm.id % 250}" if power_state else None,
            "floating_ip": address if spell.ip_rate else None,
            "floating_ip_status": "ATTACHED" if spell.ip_rate else "NO FLOATING IP",
            "security_rules": [],
            "callback_url": None,
            "locked": False,
            "contract_id": None,
            "cluster_id": None,
            "labels": ["team:inference"],
            "created_at": text_s(vm.created_s) + "Z",
            "features": FEATURES,
            "is_snapshotting": False,
            "port_randomization": False,
            "port_randomization_status": "NO_FLOATING_IP",
            "requires_public_ip": True,
        }

    def _attachment(self, volume: Volume) -> Json:
        about = {"id": volume.id, "name": volume.name, "description": "", "volume_type": "Cloud-SSD"}
        row = {"id": volume.id * 10 + 1, "status": "ATTACHED", "device": "/dev/vdb", "protected": False}
        created = {"created_at": text_s(volume.created_s)}
        return row | created | {"volume": about | {"size": volume.size, "bootable": False}}

    def _volume(self, volume: Volume, now_s: int) -> Json:
        vm = self._scenario.vm_by_id.get(volume.attached_to or 0)
        in_use = vm is not None and vm.spell_at(now_s) is not None
        place = {"id": volume.id * 10 + 1, "instance_id": volume.attached_to, "device": "/dev/vdb"}
        return {
            "id": volume.id,
            "name": volume.name,
            "environment": {"name": ENVIRONMENT["name"], "region": REGION, "features": FEATURES},
            "description": "",
            "volume_type": "Cloud-SSD",
            "size": volume.size,
            "status": "in-use" if in_use else "available",
            "bootable": False,
            "image_id": None,
            "callback_url": None,
            "created_at": text_s(volume.created_s),
            "updated_at": text_s(volume.created_s) + "Z",
            "attachments": [place | {"status": "ATTACHED", "protected": False}] if in_use else [],
        }
