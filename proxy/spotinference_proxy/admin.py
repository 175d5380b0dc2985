"""The operator's pages, on their own address: /healthz, /readyz, /metrics.

Owns what they say. Who may reach the address is the operator's choice: it is loopback unless set otherwise.
"""

from typing import TYPE_CHECKING

from spotinference_proxy.client_connection import Answer, ClientConnection, error_answer, json_answer
from spotinference_proxy.http1 import RequestHead

if TYPE_CHECKING:
    from spotinference_proxy.app import Proxy


class AdminPages:
    """Answers about one proxy."""

    def __init__(self, proxy: "Proxy") -> None:
        self._proxy = proxy

    def refuse(self, connection: ClientConnection, head: RequestHead) -> Answer | None:  # noqa: ARG002
        """Take GET without a body only."""
        if head.method != "GET" or head.content_length or head.is_chunked:
            return json_answer(405, {"detail": "Method Not Allowed"}, [("allow", "GET")])
        return None

    def serve(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:  # noqa: ARG002
        """Answer."""
        path = head.target.partition("?")[0]
        if path == "/healthz":
            answer = json_answer(200, {"status": "ok"})
        elif path == "/readyz":
            answer = self._readiness()
        elif path == "/metrics":
            content, content_type = self._proxy.metrics.render()
            answer = Answer(200, content, [("content-type", content_type)])
        else:
            answer = error_answer(404, "expected /healthz, /readyz or /metrics")
        connection.respond(answer)

    def _readiness(self) -> Answer:
        proxy = self._proxy
        facts = {
            "ready": proxy.is_ready,
            "stopping": proxy.is_stopping,
            "log_writable": proxy.log.is_writable,
            "log_trouble": proxy.log.why_not_admitting,
            "upstreams": len(proxy.pool.upstreams),
            "upstreams_ready": sum(bool(one.is_ready) for one in proxy.pool.upstreams),
        }
        return json_answer(200 if proxy.is_ready else 503, facts)
