"""The command line. The only place that reads the environment for commands, prints, and chooses exit codes."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from types import FrameType
from typing import Annotated

import typer

from spotinference_pipeline import (
    backfill,
    checks,
    cli_books,
    cli_reports,
    demo,
    publication,
    raw,
    served_models,
    serving,
    validated,
    verification,
)
from spotinference_pipeline import settings as settings_module
from spotinference_pipeline.errors import (
    InvoiceFormError,
    OursError,
    SettingsError,
    SnapshotRunningError,
    SpotinferenceError,
    VerificationError,
    WarehouseError,
    WarehouseLockedError,
)
from spotinference_pipeline.exit_codes import FAILED, GATE, WRONG_USE
from spotinference_pipeline.orchestration import steps
from spotinference_pipeline.processes import Processes, free_port
from spotinference_pipeline.reconciliation import Fetched
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.storage import Storage
from spotinference_pipeline.warehouse import (
    LOCK_DEADLINE_SECONDS,
    Warehouse,
    discard_log,
    open_warehouse,
    replace_warehouse,
)
from spotinference_pipeline.windows import days_between, last_closed_day, parse_closed_days

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="US dollars per million tokens: what we paid divided by what we served.",
)
Days = Annotated[str, typer.Argument(metavar="DAY[..DAY]", help="closed UTC days, such as 2026-11-16..2026-11-22")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, by default the process's own; errors become one line and an exit code."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = app(arguments, standalone_mode=False)
    except (SettingsError, InvoiceFormError) as error:
        _fail(error, WRONG_USE)
    except SpotinferenceError as error:
        _fail(error, FAILED)
    except OSError as error:
        found = f"{error.filename or 'a file or folder'}: expected it to be usable, found {error.strerror or error}"
        _fail(OursError(f"{found}; correct the path or its permissions"), FAILED)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(FAILED)
    except typer.TyperException as error:
        _fail(SettingsError(f"{error.format_message()} See `spotinference --help`."), WRONG_USE)
    sys.exit(code if isinstance(code, int) else 0)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """End like Ctrl-C does, so that started programs are ended too."""
    raise KeyboardInterrupt


def _fail(error: Exception, code: int) -> None:
    print(f"spotinference: {error}", file=sys.stderr)
    sys.exit(code)


@app.command(name="snapshot")
def take_snapshot() -> None:
    """Take one snapshot of Hyperstack now."""
    try:
        taken = steps.take_snapshot(_settings())
    except SnapshotRunningError as running:
        print(f"spotinference: {running}", file=sys.stderr)
        return
    print(f"{taken.path}: {taken.exchanges} answers, {taken.failed} failed, {taken.left_out} left out")
    if taken.pause:
        print(f"spotinference: {taken.alarm or taken.pause}", file=sys.stderr)
    if taken.alarm:
        raise typer.Exit(FAILED)
    if taken.failed or taken.pause:
        raise typer.Exit(GATE)


@app.command()
def ingest() -> None:
    """Read new raw files and log segments into the validated tables; copy today's list prices first."""
    settings = _settings()
    with open_warehouse(settings.warehouse_path) as warehouse:
        _copy_list_prices(settings)
        done = _ingest(warehouse, settings)
    print(
        f"{done.files} files: {done.rows_read} rows read, {done.rows_accepted} accepted, "
        f"{done.rows_quarantined} quarantined, {done.rows_repeated} repeated"
    )


@app.command()
def build(
    days: Days,
    force: Annotated[bool, typer.Option(help="also where fewer minutes are known than before")] = False,
) -> None:
    """Build rollups and metric of closed UTC days; of days that nobody watched Hyperstack's books are fetched before."""
    settings = _settings()
    wanted = parse_closed_days(days, settings.clock())
    fetched = backfill.fetch_unknown(settings, wanted)
    booked = {book.utc_day for book in fetched}
    with open_warehouse(settings.warehouse_path) as warehouse:
        _copy_list_prices(settings)
        _ingest(warehouse, settings)
        wanted = sorted({*wanted, *booked})  # a month's book counts on its last day
        built = backfill.build(warehouse, wanted, lambda day: print(f"{day} rolled up"), force=force)
        warehouse.copy_for_analysts()
        _describe_books(warehouse, sorted(booked))
        incomplete = [book for book in fetched if not backfill.is_whole(warehouse, book)]
        unknown = backfill.without_data(warehouse, wanted)
    _tell_incomplete(incomplete)
    broken = [(day.utc_day, finding) for day in built for finding in day.broken]
    _report(broken)
    if blind := [day for day in unknown if day not in booked]:
        print(
            f"spotinference: {len(blind)} days from {blind[0]} to {blind[-1]} have neither snapshots nor books: they cost "
            f"nothing here; run `spotinference reconcile {blind[0]}..{blind[-1]}`",
            file=sys.stderr,
        )
    print(f"{len(built)} windows built, from {built[0].utc_day} to {built[-1].utc_day}")
    if incomplete or any(finding.blocks for _, finding in broken) or set(unknown) == set(wanted):
        raise typer.Exit(GATE)


@app.command()
def reconcile(days: Days) -> None:
    """Fetch Hyperstack's own books of closed UTC days, book what differs, and build these days and the later windows."""
    settings = _settings()
    wanted = parse_closed_days(days, settings.clock())
    fetched = list(backfill.fetch_books(settings, wanted))
    with open_warehouse(settings.warehouse_path) as warehouse:
        _ingest(warehouse, settings)
        wanted = sorted({*wanted, *(book.utc_day for book in fetched)})  # a month's book counts on its last day
        built = backfill.build(warehouse, wanted)
        warehouse.copy_for_analysts()
        _describe_books(warehouse, wanted)
        incomplete = [book for book in fetched if not backfill.is_whole(warehouse, book)]
    _tell_incomplete(incomplete)
    broken = [(day.utc_day, finding) for day in built for finding in day.broken]
    _report(broken)
    if incomplete or any(finding.blocks or day in wanted for day, finding in broken):
        raise typer.Exit(GATE)


@app.command()
def publish(
    day: Annotated[
        str | None, typer.Argument(metavar="[DAY[..DAY]]", help="closed UTC days; default: built days with data")
    ] = None,
    force: Annotated[bool, typer.Option(help="also with less coverage than was published; the page says so")] = False,
) -> None:
    """Publish a new revision of each day whose figures changed, then the pointer."""
    settings = _settings()
    wanted = None if day is None else parse_closed_days(day, settings.clock())
    with open_warehouse(settings.warehouse_path) as warehouse:
        if wanted is None:
            wanted = _publishable_days(warehouse, Storage(settings.published))
        broken = [(day, finding) for day in wanted for finding in checks.run(warehouse, day) if finding.blocks]
        if broken:
            _report(broken)
            raise typer.Exit(GATE)
        done = publication.publish(warehouse, Storage(settings.published), settings, wanted, force=force)
    if not done:
        raise SettingsError(
            "no built day: expected at least one with snapshots or books; run `spotinference build DAY..DAY` first"
        )
    for published in done:
        if published.is_new:
            print(f"{published.utc_day} r{published.revision} {_describe(published)}")
    print(f"{done[-1].utc_day}: {_describe(done[-1])}")
    if done[-1].status == "withheld":
        raise typer.Exit(GATE)


@app.command()
def verify(
    location: Annotated[str, typer.Argument(metavar="URL-or-folder", help="where economics/ lies")],
) -> None:
    """Check published files: digests, chain, schemas, and the sums by running the published queries again."""
    try:
        found = verification.verify(Storage(location, must_exist=True))
    except VerificationError as error:
        print(f"not verified: {error}", file=sys.stderr)
        raise typer.Exit(GATE) from None
    print(
        f"verified: {found.files} files, {found.revisions} revisions, {found.days_recomputed} days recomputed; "
        f"{found.newest['day']} {found.newest['display']} per million tokens"
    )


@app.command()
def rebuild() -> None:
    """Make the warehouse anew from the raw files, with every day that it had."""
    settings = _settings()
    aside = settings.warehouse_path.with_suffix(".rebuilt")
    aside.unlink(missing_ok=True)
    discard_log(aside)
    days = days_to_rebuild(settings)
    with open_warehouse(aside) as warehouse:
        done = _ingest(warehouse, settings)
        backfill.build(warehouse, days)
        warehouse.copy_for_analysts()
    replace_warehouse(settings.warehouse_path, aside)
    print(f"{done.files} files read, {len(days)} days built")


def days_to_rebuild(settings: Settings, deadline_seconds: float = LOCK_DEADLINE_SECONDS) -> list[date]:
    """Give the days that the warehouse had; where it is damaged, every closed day of which there are raw files.

    Raises: WarehouseLockedError when another process still writes it at the deadline.
    """
    try:
        with open_warehouse(settings.warehouse_path, deadline_seconds) as warehouse:
            days: list[date] = warehouse.query("select utc_day from metric.cost_per_mtok")["utc_day"].to_list()
    except WarehouseLockedError:
        raise
    except WarehouseError as error:
        print(f"spotinference: {error}", file=sys.stderr)
        first, last = raw.first_day(settings.raw_dir), last_closed_day(settings.clock())
        days = [] if first is None else list(days_between(first, last))
    return days


@app.command(name="serve")
def serve_dagster(
    port: Annotated[int, typer.Option(help="of Dagster's UI, on loopback", min=0, max=65535)] = 3000,
    read_only: Annotated[bool, typer.Option(help="a UI that can launch nothing, for analysts")] = False,
) -> None:
    """Run Dagster: web server, daemon, schedules and sensors, until interrupted."""
    settings = _settings()
    environment = serving.dagster_environment(settings, os.environ)
    with suppress(KeyboardInterrupt), Processes(settings.data_dir / "logs", environment) as processes:
        serving.prepare_home(settings, processes, serving.dagster_home(settings, os.environ))
        print(f"Dagster   {serving.start(processes, free_port(port), read_only=read_only)}", flush=True)
        while True:
            processes.check()
            time.sleep(1)


@app.command(name="demo")
def run_demo(once: Annotated[bool, typer.Option("--once", help="end after publishing")] = False) -> None:
    """Run everything on this machine with simulated services: nine past days, the UI, the page, the number."""
    with suppress(KeyboardInterrupt):
        demo.run(_settings(), os.environ, once=once)


def _publishable_days(warehouse: Warehouse, published: Storage) -> list[date]:
    """Give the built days of which something is known or was published; tell which others are left out."""
    built = warehouse.query("select utc_day from metric.cost_per_mtok order by utc_day")["utc_day"].to_list()
    left_out = sorted(set(backfill.without_data(warehouse, built)) - publication.published_days(published))
    if left_out:
        print(
            f"spotinference: {len(left_out)} built days from {left_out[0]} to {left_out[-1]} have neither snapshots nor books: "
            f"not published; run `spotinference reconcile {left_out[0]}..{left_out[-1]}`, or name them to publish them withheld",
            file=sys.stderr,
        )
    return [day for day in built if day not in left_out]


def _describe_books(warehouse: Warehouse, days: Sequence[date]) -> None:
    for day in days:
        print(cli_books.describe_books(warehouse, day))


def _tell_incomplete(books: Sequence[Fetched]) -> None:
    for book in books:
        print(
            f"spotinference: day {book.utc_day}: expected a whole book, found {book.failed} of {book.exchanges} answers failed "
            f"in {book.path}{f': {book.problem}' if book.problem else ''}; run `spotinference reconcile {book.utc_day}` again",
            file=sys.stderr,
        )


def _report(broken: Sequence[tuple[date, checks.Finding]]) -> None:
    for utc_day, finding in broken:
        print(finding.describe(utc_day), file=sys.stderr)


def _describe(published: publication.Published) -> str:
    figure = published.usd_per_million_tokens
    return f"{published.status}, {'no figure' if figure is None else f'{figure} USD per million tokens'}"


def _copy_list_prices(settings: Settings) -> None:
    """Copy today's list prices; without them the comparison is an older one, and nothing else waits for it."""
    try:
        steps.copy_list_prices(settings)
    except SpotinferenceError as error:
        print(f"spotinference: no copy of today's list prices, the last one counts: {error}", file=sys.stderr)


def _ingest(warehouse: Warehouse, settings: Settings) -> validated.Ingested:
    """Read new files, and what the settings say that tables must know."""
    served_models.record(warehouse, settings.models)
    return validated.ingest(warehouse, settings.raw_dir, Storage(settings.request_log))


def _settings() -> Settings:
    return settings_module.read(os.environ)


cli_reports.add_commands(app, _settings)
cli_books.add_commands(app, _settings)
