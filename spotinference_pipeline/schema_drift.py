"""Fields that the vendor began to send: counted, named, and no failure.

Owns the names that Hyperstack is known to send for each kind of item, used here or not. A new name may be money in a new
category, so somebody must be told. What a known field means is in `answers`; a field that is missing makes a bad item there.

Source: the vendor's API description of 2026, its examples and its SDKs.
"""

import msgspec

from spotinference_pipeline.answers import (
    BillingEvent,
    BillingRow,
    Credit,
    Payment,
    Price,
    UsageItem,
    VirtualMachine,
    VmEvent,
    raw_items,
)
from spotinference_pipeline.errors import HyperstackError

MOST_NAMES = 20


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_KNOWN: dict[type, frozenset[str]] = {
    UsageItem: _names(
        "resource_id resource_type name organization_id bill_per_minute create_time terminate_time total_up_time "
        "total_bill active exclude_billing currency"
    ),
    VirtualMachine: _names(
        "id name status power_state vm_state environment image os flavor keypair volume_attachments fixed_ip floating_ip "
        "floating_ip_status security_rules callback_url locked contract_id cluster_id labels created_at features "
        "is_snapshotting port_randomization port_randomization_status requires_public_ip enhanced_metrics"
    ),
    VmEvent: _names("id instance_id user_id org_id time type reason object message"),
    Price: _names("id name value original_value discount_applied start_time end_time currency"),
    Payment: _names(
        "payment_id transaction_id amount tax_amount currency status payment_type paid_from description gateway_response "
        "invoice auto_topup_id attempt_number max_attempts created_at updated_at"
    ),
    Credit: _names("credit threshold can_create_instance currency"),
    BillingRow: _names("attributes metrics currency"),
    BillingEvent: _names("start event event_duration price_per_hour total_cost"),
}
_KNOWN_METRICS = _names(
    "incurred_bill non_discounted_bill price_per_hour non_discounted_price_per_hour usage_time size vm_cost volume_cost "
    "snapshot_cost bucket_cost contract_cost ais_token_cost ais_workload_cost input_tokens output_tokens"
)
_KNOWN_METRIC_ENDINGS = ("_incurred_bill", "_non_discounted_bill", "_graph")


def unknown_fields(endpoint: str, content: bytes) -> list[str]:
    """Name the fields of an answer's items that are new, sorted, each once, at most twenty.

    An answer that cannot be read has none: it is a failure, and said elsewhere.
    """
    try:
        kind, items = raw_items(endpoint, content)
    except HyperstackError:
        return []
    names: set[str] = set()
    for item in items if kind in _KNOWN else ():
        members = _members(item)
        names |= members.keys() - _KNOWN[kind]
        if kind is BillingRow and "metrics" in members:
            names |= {f"metrics.{name}" for name in _members(members["metrics"]) if not _is_known_metric(name)}
    return sorted(name[:64].replace(",", " ") for name in names)[:MOST_NAMES]


def _members(content: msgspec.Raw) -> dict[str, msgspec.Raw]:
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return {}


def _is_known_metric(name: str) -> bool:
    return name in _KNOWN_METRICS or name.startswith("usage_time_") or name.endswith(_KNOWN_METRIC_ENDINGS)
