"""The fleet side of the simulated Hyperstack: machines, volumes, snapshots, events, flavors, regions.

Owns `/core`. Does not own prices (`hyperstack_prices`) or money that was spent (`hyperstack_billing`,
`hyperstack_history`).

Source: Hyperstack API, core endpoints, as documented in 2026-11.
"""

from collections.abc import Hashable

from spotinference_sim.chances import pick
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Call, Json, core_page, not_found, searched
from spotinference_sim.instants import HOUR_S, MINUTE_S, text_s
from spotinference_sim.prices import FLAVORS, Flavor
from spotinference_sim.resources import Other, Vm, Volume
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
UNKNOWN_STATUS = "MIGRATING"
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

    def __init__(self, scenario: Scenario, faults: Faults) -> None:
        self._scenario = scenario
        self._faults = faults

    def fleet_key(self, now_s: int) -> Hashable:
        """Name everything that the machine list depends on: equal keys, equal lists."""
        spells = (spell.start_s if (spell := r.spell_at(now_s)) else None for r in self._scenario.resources)
        names = (r.name_at(now_s) for r in self._scenario.resources if r.renames)
        return (*spells, *names, now_s // MINUTE_S if self._faults.unknown_status else None)

    def vms(self, call: Call) -> Json:
        """List the machines, oldest first; deleted ones are gone."""
        rows = [self._vm(vm, call.now_s) for vm in self._scenario.vms if vm.spell_at(call.now_s)]
        return core_page(call, "instances", searched(call, rows), "Getting VMs successful")

    def contract_vms(self, call: Call) -> Json:
        """List the machines that ran under a contract, in short; deleted ones stay."""
        rows: list[Json] = []
        for vm in self._scenario.vms:
            if vm.contract_id == call.id and vm.created_s <= call.now_s:
                spell = vm.spell_at(call.now_s)
                flavor = {"flavor_name": vm.flavor.name, "gpu_count": vm.flavor.gpu_count}
                lived = {"total_usage_time": min(call.now_s, vm.ended_s) - vm.created_s}
                dates = {"created_at": text_s(vm.created_s) + "Z"}
                dates |= {} if spell else {"termination_time": text_s(vm.ended_s) + "Z"}
                status = {"status": spell.status if spell else "DELETED"}
                rows.append({"id": vm.id, "name": vm.name_at(call.now_s)} | status | flavor | lived | dates)
        return {"status": True, "message": "Getting VMs successful", "instances": searched(call, rows)}

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
                "object": vm.name_at(event.at_s),
                "message": f"{event.reason} for {vm.name_at(event.at_s)}",
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
        """List the snapshots."""
        rows = [self._snapshot(r, call.now_s) for r in self._scenario.others if r.kind == "snapshot"]
        return core_page(
            call, "snapshots", searched(call, [row for row in rows if row]), "Getting snapshots successful"
        )

    def snapshot(self, call: Call) -> Json:
        """Show one snapshot; its status is a number here, as in the published example."""
        for snapshot in self._scenario.others:
            if snapshot.kind == "snapshot" and snapshot.id == call.id and snapshot.spell_at(call.now_s):
                row = self._snapshot(snapshot, call.now_s) or {}
                more = {"labels": "", "custom_image": None}
                return {"status": 200, "message": "Getting snapshot successful", "snapshot": row | more}
        raise not_found(f"Snapshot {call.id} does not exist.")

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
        about = {name: member for name, member in ENVIRONMENT.items() if name != "org_id"}
        rows = [about | {"created_at": text_s(self._scenario.start_s)}]
        return core_page(call, "environments", rows, "Getting environments successful")

    def regions(self, _call: Call) -> Json:
        """List the regions."""
        rows = [{"id": 2, "name": REGION, "description": "", "country": "Canada", "features": FEATURES}]
        return {"status": True, "message": "Getting regions successful", "regions": rows}

    def _find_vm(self, call: Call) -> Vm:
        for vm in self._scenario.vms:
            if vm.id == call.id and vm.spell_at(call.now_s):
                return vm
        raise not_found(f"Virtual machine {call.id} does not exist.")

    def _word(self, vm: Vm, status: str, now_s: int) -> str:
        """Tell the status, or for ten minutes of each hour a word that nobody knows."""
        if self._faults.unknown_status:
            since_s = pick(0, 50 * MINUTE_S, self._scenario.seed, "unknown_status", vm.id, now_s // HOUR_S)
            if since_s <= now_s % HOUR_S < since_s + 10 * MINUTE_S:
                return UNKNOWN_STATUS
        return status

    def _vm(self, vm: Vm, now_s: int) -> Json:
        spell = vm.spell_at(now_s)
        assert spell is not None
        power_state, vm_state = POWER.get(spell.status, ("RUNNING", "active"))
        runs = sum(wake.active_s <= now_s for wake in vm.wakes)
        address = f"203.0.113.{(vm.id + (0 if vm.retain_ip else 7 * runs)) % 250 + 2}"
        attached = [v for v in self._scenario.volumes if v.attached_to == vm.id and v.spell_at(now_s)]
        return {
            "id": vm.id,
            "name": vm.name_at(now_s),
            "status": self._word(vm, spell.status, now_s),
            "power_state": power_state,
            "vm_state": vm_state,
            "environment": ENVIRONMENT,
            "image": None,
            "os": "Ubuntu Server 22.04 LTS R570 CUDA 12.8 with Docker",
            "flavor": _flavor(vm.flavor),
            "keypair": {"name": "ops"},
            "volume_attachments": [self._attachment(volume, now_s) for volume in attached],
            "fixed_ip": f"10.0.0.{vm.id % 250}" if power_state else None,
            "floating_ip": address if spell.ip_rate else None,
            "floating_ip_status": "ATTACHED" if spell.ip_rate else "NO FLOATING IP",
            "security_rules": [],
            "callback_url": None,
            "locked": False,
            "contract_id": vm.contract_id,
            "cluster_id": None,
            "labels": ["team:inference"],
            "created_at": text_s(vm.created_s) + "Z",
            "features": FEATURES,
            "is_snapshotting": False,
            "port_randomization": False,
            "port_randomization_status": "NO_FLOATING_IP",
            "requires_public_ip": True,
        }

    def _attachment(self, volume: Volume, now_s: int) -> Json:
        about = {"id": volume.id, "name": volume.name_at(now_s), "description": "", "volume_type": "Cloud-SSD"}
        row = {"id": volume.id * 10 + 1, "status": "ATTACHED", "device": "/dev/vdb", "protected": False}
        created = {"created_at": text_s(volume.created_s)}
        return row | created | {"volume": about | {"size": volume.size, "bootable": False}}

    def _volume(self, volume: Volume, now_s: int) -> Json:
        in_use = any(vm.id == volume.attached_to and vm.spell_at(now_s) for vm in self._scenario.vms)
        place = {"id": volume.id * 10 + 1, "instance_id": volume.attached_to, "device": "/dev/vdb"}
        return {
            "id": volume.id,
            "name": volume.name_at(now_s),
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

    def _snapshot(self, snapshot: Other, now_s: int) -> Json | None:
        spell = snapshot.spell_at(now_s)
        about = {"id": snapshot.id, "name": snapshot.name_at(now_s), "description": "", "size": snapshot.size}
        place: Json = {
            "vm_id": snapshot.vm_id,
            "region_id": 2,
            "is_image": False,
            "has_floating_ip": False,
            "labels": [],
        }
        dates = {"created_at": text_s(snapshot.created_s), "updated_at": text_s(snapshot.created_s) + "Z"}
        return about | {"status": spell.status} | place | dates if spell else None
