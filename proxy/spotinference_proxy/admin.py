"""The operator's pages, on their own address: /healthz, /readyz, /metrics.

Owns which pages there are. What they say is asked of whoever is told about; who may reach the address is the
operator's choice: it is loopback unless set otherwise.
"""

from collections.abc import Callable, Mapping
from typing import Any

from spotinference_proxy.answers import Answer, error_answer, json_answer
from spotinference_proxy.client_connection import ClientConnection
from spotinference_proxy.http1 import RequestHead


class AdminPages:
    """`readiness` has a member `ready`; `metrics` gives a page and its content type."""

    def __init__(self, readiness: Callable[[], Mapping[str, Any]], metrics: Callable[[], tuple[bytes, str]]) -> None:
        self._readiness = readiness
        self._metrics = metrics

    def refuse(self, connection: ClientConnection, head: RequestHead) -> Answer | None:  # noqa: ARG002
        """Take GET and HEAD without a body only."""
        if head.method not in ("GET", "HEAD") or head.content_length or head.is_chunked:
            return json_answer(405, {"detail": "Method Not Allowed"}, [("allow", "GET, HEAD")])
        return None

    def serve(self, connection: ClientConnection, head: RequestHead, body: bytes) -> None:  # noqa: ARG002
        """Answer."""
        path = head.target.partition("?")[0]
        if path == "/healthz":
            answer = json_answer(200, {"status": "ok"})
        elif path == "/readyz":
            facts = self._readiness()
            answer = json_answer(200 if facts["ready"] else 503, facts)
        elif path == "/metrics":
            content, content_type = self._metrics()
            answer = Answer(200, content, [("content-type", content_type)])
        else:
            answer = error_answer(404, "expected /healthz, /readyz or /metrics")
        connection.respond(answer)
