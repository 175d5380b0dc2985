"""What a client gets that is not vLLM's: an error of the proxy itself, or a connection that visibly breaks.

Does not own what passes: relay.py.
"""

import socket
import struct

import aiohttp
from aiohttp import web

RETRY_AFTER_SECONDS = 10


def error_answer(status: int, message: str) -> web.Response:
    """Return an error in the shape of vLLM's; a 503 says when to try again."""
    error = {"message": message, "type": "spotinference_proxy", "param": None, "code": status}
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 503 else None
    return web.json_response({"error": error}, status=status, headers=headers)


def break_connection(client: web.Request) -> None:
    """End a begun answer so that its client cannot take it for whole. What was sent still arrives."""
    transport = client.transport
    if transport is None:
        return
    if client.version >= aiohttp.HttpVersion11:
        transport.close()  # the missing last chunk or the length tells
        return
    connection = transport.get_extra_info("socket")  # HTTP/1.0 knows no other sign than a reset
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
