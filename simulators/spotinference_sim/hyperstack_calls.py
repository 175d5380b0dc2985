"""One call to the simulated Hyperstack: its parameters, its refusals and its pages.

Owns the conventions that all endpoints share (dates, paging, error envelope). Does not own what endpoints
answer.

Source: Hyperstack API conventions as documented in 2026-11; messages of refusals as seen in published
examples.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spotinference_sim.instants import SECOND_US, parse_us, text_s

Json = dict[str, Any]

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}")
BAD_DATES = "The query parameter 'start_date' and 'end_date' must be in the format YYYY-MM-DDTHH:MM:SS"


class RefusalError(Exception):
    """The API says no: HTTP status, message and error_reason of the envelope."""

    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.body: Json = {"status": False, "message": message, "error_reason": reason}


def not_found(message: str) -> RefusalError:
    """Make a 404."""
    return RefusalError(404, message, "not_found")


@dataclass(frozen=True)
class Call:
    """A question: path groups, query, and the instant of the question."""

    groups: Mapping[str, str]
    query: Mapping[str, str]
    now_us: int
    dates_optional: bool = False

    @property
    def now_s(self) -> int:
        """The second of the question."""
        return self.now_us // SECOND_US

    @property
    def id(self) -> int:
        """The numeric id in the path."""
        return int(self.groups["id"])

    def window(self) -> tuple[int, int]:
        """Read start_date and end_date, in microseconds; where they may be missing, the month so far.

        Raises: RefusalError 400 when one is missing or not of the exact format.
        """
        start, end = self.query.get("start_date", ""), self.query.get("end_date", "")
        if self.dates_optional:
            start, end = start or f"{text_s(self.now_s)[:7]}-01T00:00:00", end or text_s(self.now_s)
        if not _DATE.fullmatch(start) or not _DATE.fullmatch(end):
            raise RefusalError(400, BAD_DATES, "bad_request")
        try:
            return parse_us(start), parse_us(end)
        except ValueError:
            raise RefusalError(400, BAD_DATES, "bad_request") from None

    def positive(self, name: str) -> int | None:
        """Read a page number or size; None when it was not asked for.

        Raises: RefusalError 400 when it is not a positive number.
        """
        text = self.query.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or int(text) < 1:
            raise RefusalError(400, f"The query parameter '{name}' must be a positive integer", "bad_request")
        return int(text)


def core_page(call: Call, name: str, rows: list[Json], message: str) -> Json:
    """Cut a page of a `/core` list: everything unless a page was asked for."""
    page, size = call.positive("page"), call.positive("pageSize")
    shown = rows if page is None and size is None else rows[((page or 1) - 1) * (size or 10) :][: size or 10]
    counters = {"page": page, "page_size": size, "count": len(rows)}
    return {"status": True, "message": message, **counters, name: shown}


def searched(call: Call, rows: list[Json]) -> list[Json]:
    """Keep the rows whose name holds the search text, whatever the case."""
    text = call.query.get("search", "").lower()
    return [row for row in rows if text in row["name"].lower()]
