"""Checksummed lines and files written once.

Owns the outer form that raw files and request log segments share: JSON object, last member `"c"`, the
CRC32C of all bytes before it. Does not own what the lines say.
"""

from hashlib import sha256
from pathlib import Path

import google_crc32c


def sealed(payload: str) -> bytes:
    """Close an object that lacks its last member and brace, and end the line."""
    data = payload.encode()
    return b'%s,"c":"%08x"}\n' % (data, google_crc32c.value(data))


def short_hash(content: bytes) -> str:
    """Name content by eight hex digits: what is random in a file's name comes from its bytes here."""
    return sha256(content).hexdigest()[:8]


def write_once(path: Path, content: bytes) -> None:
    """Write a file whose name stands for its content; one that is there already stays as it is."""
    if not path.exists():
        write_whole(path, content)


def write_whole(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename, so that nobody reads half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    temporary.rename(path)
