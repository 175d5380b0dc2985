"""Which files there are to read."""

from pathlib import Path
from typing import Any

from spotinference_pipeline import sources
from spotinference_pipeline.storage import Storage


def test_only_sealed_segments_are_sources_and_what_looks_like_one_is_told(tmp_path: Path, lines: Any) -> None:
    log, sealed = Storage(str(tmp_path)), lines.name(1)
    for name in (sealed, "notes.txt", sealed.replace("jsonl", "open"), f"old/{sealed}", "copy.jsonl"):
        log.write(name, lines.segment(lines.end(1)))
    assert sources.segment_names(log) == [sealed]
    assert sources.misnamed_segments(log) == ["copy.jsonl", f"old/{sealed}"]
