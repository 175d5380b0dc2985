"""The commands that only tell: what there is, and how a figure comes about. Here are their options and what they print."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from spotinference_pipeline import answers, explanation, public_files, sources
from spotinference_pipeline.errors import SettingsError, WarehouseError
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import Warehouse, open_warehouse
from spotinference_pipeline.windows import last_closed_day, parse_closed_days

AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
Day = Annotated[str, typer.Argument(metavar="DAY", help="a built UTC day, such as 2026-11-22")]


def add_commands(app: typer.Typer, read_settings: Callable[[], Settings]) -> None:
    """Add the commands to the program's."""

    @app.command()
    def status(as_json: AsJson = False) -> None:
        """Show what was read, what was built and what is published."""
        settings = read_settings()
        with open_warehouse(settings.warehouse_path) as warehouse:
            facts = _read_status(warehouse, settings)
        if as_json:
            print(json.dumps(facts, indent=1))
            return
        for name, fact in facts.items():
            print(f"{name.replace('_', ' '):<24}{'–' if fact is None else fact}")

    @app.command()
    def explain(day: Day, as_json: AsJson = False) -> None:
        """Show how a day's figure comes about, from ledger lines and token sums, each line with its source."""
        settings = read_settings()
        utc_day, *more = parse_closed_days(day, settings.clock())
        if more:
            raise SettingsError(f"day {day!r}: expected one day, found {1 + len(more)}; explain them one by one")
        if not settings.warehouse_path.exists():
            raise WarehouseError(
                f"warehouse {settings.warehouse_path}: expected built days, found no such file; correct "
                f"SPOTINFERENCE_DATA_DIR, or run `spotinference build {utc_day}`"
            )
        with open_warehouse(settings.warehouse_path) as warehouse:
            explained = explanation.explain(warehouse, Storage(settings.published), settings, utc_day)
        print(json.dumps(explained.document(), indent=1) if as_json else "\n".join(explained.screen()))


def _read_status(warehouse: Warehouse, settings: Settings) -> dict[str, Any]:
    rows = warehouse.query(
        """
        select
            (select count(*) from validated.ingested_files) as files_read,
            (
                select cast(max(scheduled_at) as varchar) from validated.exchanges where is_good and endpoint = $usage
            ) as last_good_snapshot,
            (select cast(max(finished_at) as varchar) from validated.requests) as last_request,
            (select count(*) from validated.quarantine) as quarantined,
            (select cast(max(utc_day) as varchar) from metric.cost_per_mtok) as last_built_day,
            (
                select cast(max_by(drift_usd, utc_day) as varchar) from rollup.credit_days where drift_usd is not null
            ) as credit_drift_usd,
            (
                select cast(max(utc_day) as varchar) from rollup.credit_days where drift_usd is not null
            ) as credit_drift_day
        """,
        {"usage": answers.USAGE},
    ).row(0, named=True)
    log = Storage(settings.request_log)
    waiting = len(sources.list_new(warehouse, settings.raw_dir, log))
    latest = Storage(settings.published).find(public_files.LATEST)
    newest = json.loads(latest) if latest else {}
    return {
        **rows,
        "files_waiting": waiting,
        "segments_misnamed": len(sources.misnamed_segments(log)),
        "last_closed_day": last_closed_day(settings.clock()).isoformat(),
        "published_day": newest.get("day"),
        "published_status": newest.get("status"),
        "usd_per_million_tokens": newest.get("usd_per_million_tokens"),
    }
