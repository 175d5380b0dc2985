"""A listening address and the connections made to it.

Owns accepting, the set of open connections, their check (tasks.py says when), and how they come to an end. Does not
own what a request is answered with: the three callables do.
"""

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from spotinference_proxy.answers import Answer
from spotinference_proxy.client_connection import ClientConnection, Limits
from spotinference_proxy.http1 import RequestHead

FLUSH_SECONDS = 5.0
_FLUSH_STEP_SECONDS = 0.01
_BACKLOG = 1024


def _respond(connection: ClientConnection, _head: RequestHead | None, answer: Answer) -> None:
    connection.respond(answer)


@dataclass
class Listener:
    """`refuse` looks at a head, `serve` gets a whole request, `broke_off` answers one that was not read."""

    refuse: Callable[[ClientConnection, RequestHead], Answer | None]
    serve: Callable[[ClientConnection, RequestHead, bytes], None]
    broke_off: Callable[[ClientConnection, RequestHead | None, Answer], None] = _respond
    limits: Limits = field(default_factory=Limits)
    connections: set[ClientConnection] = field(default_factory=set)
    buffered_bytes: int = 0
    is_stopping: bool = False
    _server: asyncio.Server | None = None

    async def open(self, address: tuple[str, int], *, shares_port: bool = False) -> tuple[str, int]:
        """Listen; return the real address. `shares_port` lets other processes listen there too. Raises: OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self, loop.time), *address, backlog=_BACKLOG, reuse_port=shares_port or None
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    def make_room(self) -> None:
        """Give up the largest of the bodies on their way, rather than whoever came last."""
        max(self.connections, key=lambda connection: connection.body_bytes).make_room()

    def check(self) -> None:
        """Close connections that take too long."""
        now = asyncio.get_running_loop().time()
        for connection in list(self.connections):
            connection.check(now)

    def stop(self) -> None:
        """Accept nobody any more; connections close when they have their answer."""
        self.is_stopping = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self.connections):
            connection.close_if_idle()

    async def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Wait until the clients have taken what was sent to them, at most so long."""
        until = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < until and not all(one.is_flushed for one in self.connections):
            await asyncio.sleep(_FLUSH_STEP_SECONDS)

    def close(self) -> None:
        """Close what is still open."""
        for connection in list(self.connections):
            connection.check(math.inf)
