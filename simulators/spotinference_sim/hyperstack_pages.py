"""Pages of the simulated history lists: honest, or with wrong counters and rows that move between pages.

Owns what the reference's section 1.4 tells of them. A page after the first may begin one row too early (a row
comes twice) or too late (a row does not come at all); the first page is always right.

Source: counters as seen in Hyperstack's published examples of 2026-11; lists are computed live.
"""

from spotinference_sim.chances import chance
from spotinference_sim.faults import Faults
from spotinference_sim.hyperstack_calls import Call, Json

DEFAULT_SIZE = 10


class HistoryPages:
    """Cuts pages."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self._seed = seed
        self._faults = faults

    def cut(self, call: Call, rows: list[Json]) -> Json:
        """Cut the page that was asked for: ten rows of the first unless told otherwise.

        Raises: RefusalError 400 when page or size is not a positive number.
        """
        page, size = call.positive("page") or 1, call.positive("per_page") or DEFAULT_SIZE
        first = (page - 1) * size + (self._drift(call) if page > 1 else 0)
        counters: Json = {"page": page, "per_page": size, "pages": -(-len(rows) // size)}
        total = len(rows)
        if self._faults.wrong_counters:
            about = (self._seed, "wrong_counters", call.groups["kind"], call.now_s)
            total = max(0, total - int(chance(*about) * 4)) + int(chance(*about, "more") * 8)
            counters["pages"] = 1
            if chance(*about, "second") < 0.5:
                counters["total_count"] = len(rows) + 7
        return {"billing_history": rows[first : first + size], "total_count": total, "pagination": counters}

    def _drift(self, call: Call) -> int:
        asked = (self._seed, "page_drift", call.groups["kind"], sorted(call.query.items()), call.now_us)
        if chance(*asked) >= self._faults.page_drift:
            return 0
        return 1 if chance(*asked, "way") < 0.5 else -1
