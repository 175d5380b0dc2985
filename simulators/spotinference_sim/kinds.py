"""The types of resources that cost money, and where each of them shows in the billing API.

Owns the words: the `resource_type` of usage, the path of the history lists, the category of the organisation
total. Does not own what the resources are (`resources`) or what answers look like (`hyperstack_*`).

Source: Hyperstack API as documented in 2026-11. Clusters have a history list and no category of the
organisation's total; snapshots, buckets, contracts and AI have both and are not in usage. A type that
nobody documents is in usage and in the total only.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """One type; `path` is None where there is no history list, `category` where the total has no field."""

    word: str
    path: str | None
    title: str
    category: str | None
    in_usage: bool


FILESYSTEM = "filesystem"
"""A `resource_type` that no documentation names."""
SERVERLESS = "serverless_inference"
KINDS = {
    kind.word: kind
    for kind in (
        Kind("vm", "virtual-machine", "Virtual Machine", "vm_cost", True),
        Kind("volume", "volume", "Volume", "volume_cost", True),
        Kind("snapshot", "snapshot", "Snapshot", "snapshot_cost", False),
        Kind("bucket", "bucket", "Bucket", "bucket_cost", False),
        Kind("cluster", "cluster", "Cluster", None, False),
        Kind("contract", "contract", "Contract", "contract_cost", False),
        Kind(SERVERLESS, SERVERLESS, "Serverless Inference", "ais_token_cost", False),
        Kind(FILESYSTEM, None, "Filesystem", None, True),
    )
}
CATEGORIES = (
    "vm_cost",
    "volume_cost",
    "snapshot_cost",
    "bucket_cost",
    "contract_cost",
    "ais_token_cost",
    "ais_workload_cost",
)
"""Fields of the organisation's total, in the order of its answer."""
STORED = ("volume", "snapshot", "bucket")
