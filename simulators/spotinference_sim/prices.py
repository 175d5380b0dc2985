"""The price book: nano-dollars per unit-second, and the flavors that are priced with it.

Every price is a whole number of nano-dollars per second, that is a multiple of 0.0000036 USD/h. Then every
counter at a whole second is a whole number of nano-dollars, and at a whole microsecond a whole number of
femto-dollars, so the truth is exact in integers. The prices are the public rate card of August 2026 rounded
to such a multiple (H100 3.1968 for 3.20, Cloud-SSD 0.0000972 for 0.0000967742); names as third-party
code reports them.
"""

from dataclasses import dataclass

NANO = 10**9

_GPU = {
    "B200-SXM": 1_666_000,
    "H200-141G-SXM5": 1_108_000,
    "H100-80G-SXM5": 888_000,  # 3.1968 USD/h
    "H100-80G-PCIe": 694_000,
    "A100-80G-SXM4": 444_000,
    "A100-80G-PCIe": 375_000,  # 1.3500 USD/h
    "L40": 278_000,  # 1.0008 USD/h
    "RTX-A6000": 139_000,  # 0.5004 USD/h
}
_OTHER = {
    "vCPU": 0,
    "RAM": 0,
    "hypervisor-local-storage": 0,
    "vCPU (cpu-only-flavors)": 14_000,  # 0.0504 USD/h
    "RAM (cpu-only-flavors)": 7_000,  # 0.0252 USD/h per GB
    "hypervisor-local-storage (cpu-only-flavors)": 134,  # 0.0004824 USD/h per GB
    "Cloud-SSD": 27,  # 0.0000972 USD/h per GB
    "PublicIP": 1_867,  # 0.0067212 USD/h
    "ObjectStorage": 5,
}


@dataclass(frozen=True, slots=True)
class PriceChange:
    """From `at_s` on, `name` costs `nanos` nano-dollars per unit-second."""

    at_s: int
    name: str
    nanos: int


@dataclass(frozen=True, slots=True)
class PriceBook:
    """All prices at every instant."""

    changes: tuple[PriceChange, ...] = ()

    def nanos(self, name: str, at_s: int) -> int:
        """Tell the price of one unit in nano-dollars per second."""
        price = _GPU[name] if name in _GPU else _OTHER[name]
        for change in self.changes:
            if change.name == name and change.at_s <= at_s:
                price = change.nanos
        return price

    def names(self) -> tuple[str, ...]:
        """List what has a price, in the order of the price book."""
        return (*_GPU, *_OTHER)


@dataclass(frozen=True, slots=True)
class Flavor:
    """A kind of machine; sizes in GB. `gpu` is "" for CPU flavors."""

    id: int
    name: str
    cpu: int
    ram: int
    disk: int
    ephemeral: int
    gpu: str
    gpu_count: int

    def compute_nanos(self, prices: PriceBook, at_s: int) -> dict[str, int]:
        """Price what runs while the machine is ACTIVE, by Hyperstack's sub-resource names."""
        if self.gpu:
            return {"gpu": prices.nanos(self.gpu, at_s) * self.gpu_count}
        return {
            "cpu": prices.nanos("vCPU (cpu-only-flavors)", at_s) * self.cpu,
            "ram": prices.nanos("RAM (cpu-only-flavors)", at_s) * self.ram,
            "disk": prices.nanos("hypervisor-local-storage (cpu-only-flavors)", at_s) * self.disk,
        }

    def saved_nanos(self, prices: PriceBook, at_s: int) -> dict[str, int]:
        """Price the root disk of a hibernated machine: saved data at the Cloud-SSD price."""
        return {"disk": prices.nanos("Cloud-SSD", at_s) * self.disk}


FLAVORS = {
    flavor.name: flavor
    for flavor in (
        Flavor(11, "n2-cpu-2", 2, 8, 100, 0, "", 0),
        Flavor(31, "n3-A6000x1", 28, 58, 100, 725, "RTX-A6000", 1),
        Flavor(42, "n3-L40x1", 28, 58, 100, 725, "L40", 1),
        Flavor(53, "n3-A100x1", 28, 120, 100, 750, "A100-80G-PCIe", 1),
        Flavor(95, "n3-H100-SXM5x1", 24, 225, 100, 4000, "H100-80G-SXM5", 1),
    )
}


def usd_per_hour(nanos: int) -> float:
    """Turn nano-dollars per second into the binary float of dollars per hour that the API would print."""
    return nanos * 3600 / NANO


def price_text(nanos: int) -> str:
    """Spell a price per hour as the price book does: nine decimals, and `0E-9` for zero."""
    whole, rest = divmod(nanos * 3600, NANO)
    return f"{whole}.{rest:09d}" if nanos else "0E-9"
