"""The error tree: ours to tell the operator, never a vLLM answer (those pass through untouched).

ProxyError
├── SettingsError    the operator's settings or keys file are wrong
├── BodyError        a request's body is nothing the proxy will read: answered with 400
├── ProtocolError    bytes that are not the HTTP/1.1 the proxy speaks
├── RecordError      a line of the request log is not what was written
├── LogError         the request log cannot be written now
├── ListenError      an address cannot be listened on (addresses.py)
└── ShipError        segments cannot be shipped now (ship_target.py)
"""


class ProxyError(Exception):
    """Base of every error raised on purpose in this distribution."""


class SettingsError(ProxyError):
    """A setting is missing or wrong; the message is one line with the next step."""


class BodyError(ProxyError):
    """A request's body is too deep, or too large for one that is not strict JSON; the client gets a 400."""


class ProtocolError(ProxyError):
    """A head or a body breaks the grammar; `status` is what a client gets for it."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class RecordError(ProxyError):
    """A line of the log is damaged, too long or of another version."""


class LogError(ProxyError):
    """A row did not become durable; whoever waits for it must not act as if it had."""
