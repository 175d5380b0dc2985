"""When things run, all in UTC: the minute snapshot, new log segments, the hourly ingest, the daily build, late data.

The minute is a sensor's tick that lands one raw file and opens no database: a run a minute would cost thirty times the
CPU and 200 MB of storage a day (docs/decisions/0004). A missed tick costs resolution, never money.
"""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import date

import dagster as dg

from spotinference_pipeline.errors import SpotinferenceError
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.windows import ONE_DAY, TRAILING_DAYS, days_between, days_resting_on, last_closed_day

VALIDATED = dg.AssetSelection.groups("validated")
DAILY = dg.AssetSelection.groups("rollup", "metric", "publication")


SNAPSHOT_TICK_SECONDS = 30
"""Dagster counts the interval from the last tick, so ticks of 60 s drift past minutes; a minute that has its snapshot is
left alone."""
INGEST_JOB, DAILY_JOB, BOOKS_JOB = "ingest", "daily_build", "daily_reconciliation"
REQUESTS = dg.AssetKey(["validated", "requests"])
ROLLED_UP = dg.AssetKey(["rollup", "snapshot_days"])
PUBLISHED = dg.AssetKey(["publication", "economics"])
MONTH_SETTLED_ON = 3
"""Day of the month on which the last day of the month before has had its D+3 within a day."""
MOST_INGESTS = 1000
"""Most ingests that one look for late data takes up; the next look goes on from there."""


def build_schedules(first_day: date) -> list[dg.ScheduleDefinition]:
    """Build the schedules; both run as soon as Dagster's daemon does."""
    hourly = dg.ScheduleDefinition(
        name="hourly_ingest",
        job_name=INGEST_JOB,
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return [hourly, _daily(first_day), _reconciliation(first_day)]


def _reconciliation(first_day: date) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="daily_reconciliation_at_two",
        description="Reads Hyperstack's books of yesterday, again two days later, and of the whole month after its end.",
        job_name=BOOKS_JOB,
        cron_schedule="0 2 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def at_two(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        today = context.scheduled_execution_time.date()
        return [
            _one_run(days, f"{today}:{days[0]}") for days in stretches(d for d in days_due(today) if d >= first_day)
        ]

    return at_two


def _daily(first_day: date) -> dg.ScheduleDefinition:
    @dg.schedule(
        name="daily_build_after_midnight",
        description="Builds the day that is over, and days missed before it: Dagster makes up for no missed tick.",
        job_name=DAILY_JOB,
        cron_schedule="20 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def after_midnight(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        last_day = last_closed_day(context.scheduled_execution_time)
        rolled_up, published = map(context.instance.get_materialized_partitions, (ROLLED_UP, PUBLISHED))
        days = list(days_between(first_day, last_day))
        missed = {day for day in days if day.isoformat() not in rolled_up}
        missed |= {day for day in days[-TRAILING_DAYS:] if day.isoformat() not in published}
        return _one_run(list(days_between(min(missed, default=last_day), last_day)), str(last_day))

    return after_midnight


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Build the sensors; all run as soon as Dagster's daemon does."""
    return [_minute_snapshot(settings), _log_segments(settings), _late_data(settings)]


def _minute_snapshot(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="minute_snapshot",
        description="Lands one snapshot of Hyperstack a minute as an immutable raw file.",
        minimum_interval_seconds=SNAPSHOT_TICK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def minute_snapshot() -> dg.SensorResult | dg.SkipReason:
        if steps.has_snapshot(settings):
            return dg.SkipReason("this minute has its snapshot")
        try:
            taken = steps.take_snapshot(settings)
        except SpotinferenceError as error:
            return dg.SkipReason(str(error))
        event = dg.AssetMaterialization(
            ["raw", "hyperstack"],
            metadata={
                "file": dg.MetadataValue.path(str(taken.path)),
                "answers": taken.exchanges,
                "failed": taken.failed,
                "left_out": taken.left_out,
            },
        )
        return dg.SensorResult(asset_events=[event], skip_reason=taken.alarm or taken.pause)

    return minute_snapshot


def _log_segments(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="log_segments",
        description="Asks for one ingest when new log segments were sealed. What was read is decided by the ingest itself.",
        job_name=INGEST_JOB,
        minimum_interval_seconds=900,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def log_segments(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            names = steps.sealed_segments(settings)
        except SpotinferenceError as error:
            return dg.SkipReason(str(error))
        state = hashlib.sha256("\n".join(names).encode()).hexdigest()
        if not names or state == context.cursor:
            return dg.SkipReason(f"{len(names)} segments, none new")
        event = dg.AssetMaterialization(["raw", "request_log"], metadata={"segments": len(names), "newest": names[-1]})
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=state)], asset_events=[event], cursor=state)

    return log_segments


def _late_data(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="late_data",
        description="Builds closed days again when ingests brought rows about days that were built before.",
        job_name=DAILY_JOB,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def late_data(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        unseen = dg.AssetRecordsFilter(REQUESTS, after_storage_id=int(context.cursor) if context.cursor else None)
        ingests = context.instance.fetch_materializations(unseen, limit=MOST_INGESTS, ascending=True).records
        if not ingests:
            return dg.SkipReason("no ingest since the last look")
        late = {day for ingest in ingests for day in reports.late_days(ingest.asset_materialization)}
        cursor = str(ingests[-1].storage_id)
        runs = [
            _one_run(days, f"{cursor}:{days[0]}")
            for days in stretches(touched_days(late, last_closed_day(settings.clock())))
        ]
        return dg.SensorResult(run_requests=runs, cursor=cursor)

    return late_data


def _one_run(days: Sequence[date], run_key: str) -> dg.RunRequest:
    """Ask for one run of a stretch of days: each table of all its days is ready before the next table reads seven."""
    first, last = days[0].isoformat(), days[-1].isoformat()
    tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
    return dg.RunRequest(run_key=run_key, tags=tags)


def days_due(today: date) -> list[date]:
    """Give the days whose books are read at 02:00 of a day: D+1, D+3, and on the third of a month the month before."""
    due = {today - ONE_DAY, today - 3 * ONE_DAY}
    if today.day == MONTH_SETTLED_ON:
        last = today.replace(day=1) - ONE_DAY
        due |= set(days_between(last.replace(day=1), last))
    return sorted(due)


def touched_days(late: Iterable[date], last_closed: date) -> list[date]:
    """Give the closed days whose figures or bounds rest on one of the late days."""
    return sorted(day for day in days_resting_on(late) if day <= last_closed)


def stretches(days: Iterable[date]) -> list[list[date]]:
    """Part days, oldest first, where one is missing between two."""
    parts: list[list[date]] = []
    for day in days:
        if parts and day - parts[-1][-1] == ONE_DAY:
            parts[-1].append(day)
        else:
            parts.append([day])
    return parts
