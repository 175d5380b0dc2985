"""Which header fields pass, in both directions: a list of those that may, nothing else.

Owns the two lists. Towards vLLM: what its API reads, and the client's Host, because vLLM builds its redirects
from it; never cookies, forwarding claims or hop-by-hop fields, so that nothing of ours can be forged. Towards
clients: what describes the answer. Framing, `X-Request-Id` and vLLM's key are the proxy's own business.
"""

from spotinference_proxy.http1 import Fields

CANARY = "x-spotinference-canary"
REQUEST_ID = "x-request-id"
_PASSED_ON = frozenset(
    {"accept", "content-type", "host", "user-agent", "traceparent", "tracestate", "endpoint-load-metrics-format"}
    | {"anthropic-version", "anthropic-beta", "openai-beta", "openai-organization", "openai-project"}
)
_PASSED_BACK = frozenset(
    {
        "allow",
        "cache-control",
        "content-disposition",
        "content-encoding",
        "content-language",
        "content-type",
        "date",
        "location",
    }
    | {"endpoint-load-metrics", "metadata", "retry-after", "vary", "www-authenticate", REQUEST_ID}
    | {"openai-processing-ms", "openai-version"}
)


def request_fields(headers: Fields, request_id: str, length: int | None, credentials: str | None) -> Fields:
    """Return what vLLM gets; `credentials` is its whole Authorization field, `length` that of the body sent."""
    fields = [field for field in headers if field[0] in _PASSED_ON]
    hop_by_hop = {
        token.strip().lower() for name, value in headers if name == "connection" for token in value.split(",")
    }
    if hop_by_hop:  # RFC 9110, 7.6.1: what the client names there is meant for us alone
        fields = [field for field in fields if field[0] not in hop_by_hop or field[0] == "host"]
    fields.append((REQUEST_ID, request_id))
    if credentials is not None:
        fields.append(("authorization", credentials))
    if length is not None:
        fields.append(("content-length", str(length)))
    return fields


def answer_fields(headers: Fields) -> Fields:
    """Return what the client gets, without the framing."""
    return [field for field in headers if field[0] in _PASSED_BACK]
