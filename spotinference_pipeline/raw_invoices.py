"""Loaded invoices as raw files: one file per revision of an invoice, with the exact bytes that were given.

Owns the envelope around an invoice's file, its folders, and that no revision is ever replaced (docs/raw-files.md). Does
not own what the file says: that is `invoice_lines`.
"""

import hashlib
import re
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec

from spotinference_pipeline.errors import RawFileError
from spotinference_pipeline.raw import BadLine, Instant, frame, land, read_records
from spotinference_pipeline.windows import format_instant

NUMBER = re.compile(r"[A-Za-z0-9][ -~]{0,63}", re.ASCII)
"""What an invoice's number may look like: it is a folder's name, quoted as in a URL."""

_FILE = re.compile(r"r[1-9][0-9]{0,5}\.jsonl", re.ASCII)


class RawInvoice(msgspec.Struct, frozen=True, kw_only=True):
    """One revision of an invoice: its file, and what the file does not say. The period is None where lines have theirs."""

    v: Literal[1] = 1
    number: Annotated[str, msgspec.Meta(pattern=f"^{NUMBER.pattern}$")]
    revision: Annotated[int, msgspec.Meta(ge=1)]
    loaded_at: Instant
    file_name: str
    period_start: date | None
    period_end: date | None
    sha256: str
    body: str

    def body_bytes(self) -> bytes:
        """Give the file's exact bytes.

        Raises: RawFileError when they do not have the digest that was taken when it was loaded.
        """
        content = self.body.encode()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise RawFileError("body: expected the sha256 of its loading, found another")
        return content

    @property
    def period(self) -> tuple[date, date] | None:
        return (self.period_start, self.period_end) if self.period_start and self.period_end else None


_DECODER = msgspec.json.Decoder(RawInvoice)


def folder_beside(raw_dir: Path) -> Path:
    """Give the folder of invoices, beside that of Hyperstack's exchanges."""
    return raw_dir.with_name("invoices")


def list_files(folder: Path) -> list[Path]:
    """Give the files of all revisions, by name; links and folders are none."""
    found = (path for path in folder.glob("*/r*.jsonl") if _FILE.fullmatch(path.name))
    return sorted(path for path in found if path.is_file() and not path.is_symlink())


def read_invoices(content: bytes) -> Iterator[tuple[int, RawInvoice | BadLine]]:
    """Give each line's number and its invoice, or why it cannot be one."""
    return read_records(content, _DECODER, "invoice")


def find_newest(folder: Path, number: str) -> RawInvoice | None:
    """Give the newest revision of an invoice, None when it was never loaded.

    Raises: RawFileError when the file of the newest revision cannot be read.
    """
    numbered = {int(path.stem[1:]): path for path in list_files(folder) if path.parent.name == _folder_name(number)}
    if not numbered:
        return None
    path = numbered[max(numbered)]
    for _, found in read_invoices(path.read_bytes()):
        if isinstance(found, RawInvoice):
            return found
    raise RawFileError(f"raw file {path}: expected an invoice, found none; bring the file back from a copy")


def append_invoice(folder: Path, invoice: RawInvoice) -> Path:
    """Land one revision as a new immutable file.

    Raises: RawFileError when the revision is there already, or cannot be written.
    """
    target = folder / _folder_name(invoice.number) / f"r{invoice.revision}.jsonl"
    document = msgspec.structs.asdict(invoice) | {"loaded_at": format_instant(invoice.loaded_at)}
    try:
        land(target, frame(msgspec.json.encode(document)))
    except OSError as error:
        raise RawFileError(
            f"raw file {target}: could not be written, found {error.strerror}; free space or correct permissions, then "
            "load the invoice again"
        ) from None
    return target


def _folder_name(number: str) -> str:
    return quote(number, safe=" ")
