"""Addresses to listen on: held for several processes, and explained when they cannot be had.

Owns no connections: listener.py. SO_REUSEPORT lets any program of the same user share an address, so a first look
without it finds out whether somebody has it (https://man7.org/linux/man-pages/man7/socket.7.html).
"""

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from spotinference_proxy.errors import ProxyError
from spotinference_proxy.settings import Settings, setting_name

Address = tuple[str, int]
_NEXT_STEPS = {
    errno.EADDRINUSE: "stop the program that has it, or choose another address",
    errno.EACCES: "choose a port from 1024 on, or allow this program the port",
    errno.EADDRNOTAVAIL: "choose an address that this machine has",
}


class ListenError(ProxyError):
    """An address cannot be listened on; the message is one line with the next step."""


@contextmanager
def reserved(settings: Settings) -> Iterator[Address]:
    """Hold the clients' address for workers that share it; port 0 becomes one that is free. It gets no connections.

    Raises: ListenError when another program has it, also one that would share it.
    """
    try:
        with _bound(settings.listen, is_shared=False) as found:
            port = found.getsockname()[1]
        holder = _bound((settings.listen[0], port), is_shared=True)
    except OSError as error:
        raise ListenError(_explain("listen", settings.listen, error)) from error
    with holder:
        yield settings.listen[0], port


def explain_listening(error: OSError, settings: Settings) -> str:
    """Return one line that says which address cannot be had and why."""
    shares = settings.worker is not None
    for field, address, is_shared in (
        ("listen", settings.listen, shares),
        ("admin_listen", settings.admin_listen, False),
    ):
        try:
            _bound(address, is_shared=is_shared).close()
        except OSError as found:
            return _explain(field, address, found)
    return f"{text_of(settings.listen)} and {text_of(settings.admin_listen)}: cannot listen: {error}; try again"


def text_of(address: Address) -> str:
    """Return an address as settings and messages have it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _explain(field: str, address: Address, error: OSError) -> str:
    reason = (error.strerror or str(error)).lower()
    is_name = isinstance(error, socket.gaierror)  # its numbers are not those of errno
    next_step = _NEXT_STEPS.get(0 if is_name else error.errno or 0, "correct the address, or choose another")
    return f"{setting_name(field)}: cannot listen on {text_of(address)}: {reason}; {next_step}"


def _bound(address: Address, *, is_shared: bool) -> socket.socket:
    family, _, _, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    found = socket.socket(family, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        found.bind(where)
    except OSError:
        found.close()
        raise
    return found
