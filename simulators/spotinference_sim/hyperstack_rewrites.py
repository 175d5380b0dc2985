"""Answers in another spelling: offsets instead of `Z`, members that nobody documents, the schemas' wrapper keys.

Owns faults that change the form of a whole answer after it was made. Values stay what they were.

Source: the reference's table of wrapper keys; Hyperstack's published schemas of 2026-11 name other ones than
its answers carry.
"""

import re
from typing import Any

from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Json
from spotinference_sim.hyperstack_history import AI_TYPES
from spotinference_sim.instants import HOUR_S, SECOND_US, parse_us, text_s

_INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z?")
OFFSET_S = 2 * HOUR_S
HISTORY = "/billing/billing/history/"
EXTRA: Json = {"x_undocumented": {"note": "ignore me", "cost": 12345.678}}
SINGLE_OBJECT = ("bucket", "cluster")
"""Types whose details are one object by schema, not a list."""


def rewritten(faults: Faults, path: str, body: Any) -> Any:
    """Spell an answer as the faults want it."""
    if faults.schema_keys and path.startswith(HISTORY):
        body = _by_schema(path.removeprefix(HISTORY).split("/"), body)
    elif faults.schema_keys and path.endswith("/sub-resource"):
        body = body["sub_resources_costs"]
    if faults.offsets or faults.extra_fields:
        body = _walked(faults, body)
    return body


def _walked(faults: Faults, value: Any) -> Any:
    if isinstance(value, dict):
        members = {name: _walked(faults, member) for name, member in value.items()}
        return members | EXTRA if faults.extra_fields else members
    if isinstance(value, list):
        return [_walked(faults, member) for member in value]
    if faults.offsets and isinstance(value, str) and _INSTANT.fullmatch(value):
        return text_s(parse_us(value) // SECOND_US + OFFSET_S) + "+02:00"
    return value


def _by_schema(parts: list[str], body: Json) -> Json:
    """Rename by the schema: `parts` are the type, then the id and `graph` where asked for."""
    kind = parts[0]
    if kind not in AI_TYPES:
        body = {("status" if name == "success" else name): member for name, member in body.items()}
    wrapper = next(name for name in body if name.startswith("billing_history"))
    wrapped = body.pop(wrapper)
    if len(parts) == 1:
        return body | {"billing_history_volume" if kind == "snapshot" else wrapper: wrapped}
    if len(parts) == 3:
        if kind == "bucket":
            return dict(wrapped)
        return body | {"billing_history_snapshot_details" if kind == "volume" else wrapper: wrapped}
    if kind in SINGLE_OBJECT:
        return body | {wrapper: wrapped["billing_history"][-1]}
    return body | {"billing_history_volume_details" if kind == "snapshot" else wrapper: wrapped}
