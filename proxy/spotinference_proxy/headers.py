"""Which header fields pass, in both directions.

Owns the hop-by-hop rule (RFC 9110, 7.6.1) and the fields that are the proxy's own business. The client's
Host passes, because vLLM builds its redirects from it; its Accept-Encoding does not, so that usage can be
read whatever stands before vLLM (vLLM itself never compresses).
"""

from collections.abc import Iterable

from multidict import CIMultiDict

CANARY = "X-Spotinference-Canary"
REQUEST_ID = "X-Request-Id"
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te"}
    | {"trailer", "transfer-encoding", "upgrade"}
)
_OURS = frozenset({"content-length", "expect", "accept-encoding", REQUEST_ID.lower(), CANARY.lower()})
_CREDENTIALS = frozenset({"authorization", "x-api-key"})

Fields = Iterable[tuple[str, str]]


def render_request(fields: Fields, request_id: str, credentials: dict[str, str], *, has_keys: bool) -> CIMultiDict[str]:
    """Return what vLLM gets: the client's key only if the proxy neither checks keys nor has its own."""
    refused = _OURS | _CREDENTIALS if has_keys or credentials else _OURS
    passed = CIMultiDict((name, value) for name, value in _end_to_end(fields) if name.lower() not in refused)
    passed[REQUEST_ID] = request_id
    passed.update(credentials)
    return passed


def render_answer(fields: Fields, *, keeps_length: bool) -> CIMultiDict[str]:
    """Return what the client gets; the length only if no byte is taken out."""
    return CIMultiDict(
        (name, value) for name, value in _end_to_end(fields) if keeps_length or name.lower() != "content-length"
    )


def _end_to_end(fields: Fields) -> list[tuple[str, str]]:
    fields = list(fields)
    named = {
        token.strip().lower() for name, value in fields if name.lower() == "connection" for token in value.split(",")
    }
    return [(name, value) for name, value in fields if name.lower() not in _HOP_BY_HOP | named]
