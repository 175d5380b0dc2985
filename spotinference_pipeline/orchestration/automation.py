"""When things run, all in UTC: the minute snapshot, new log segments, the quarter-hourly ingest, the daily build, late data.

The minute is a sensor's tick that lands one raw file and opens no database: a run a minute would cost thirty times the
CPU and 200 MB of storage a day (docs/decisions/0004). A missed tick costs resolution, never money.
"""

import hashlib
from collections.abc import Iterator
from datetime import date

import dagster as dg

from spotinference_pipeline.errors import SpotinferenceError
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.settings import Settings
from spotinference_pipeline.windows import ONE_DAY, TRAILING_DAYS, last_closed_day

VALIDATED = dg.AssetSelection.groups("validated")
DAILY = dg.AssetSelection.groups("rollup", "metric", "publication")


INGEST_JOB, DAILY_JOB = "ingest", "daily_build"


def build_schedules() -> list[dg.ScheduleDefinition]:
    """Build the schedules; both run as soon as Dagster's daemon does."""
    quarter_hourly = dg.ScheduleDefinition(
        name="quarter_hourly_ingest",
        job_name=INGEST_JOB,
        cron_schedule="*/15 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return [quarter_hourly, _daily()]


def _daily() -> dg.ScheduleDefinition:
    @dg.schedule(
        name="daily_build_after_midnight",
        job_name=DAILY_JOB,
        cron_schedule="20 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def after_midnight(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        utc_day = last_closed_day(context.scheduled_execution_time).isoformat()
        return dg.RunRequest(run_key=utc_day, partition_key=utc_day)

    return after_midnight


def build_sensors(settings: Settings) -> list[dg.SensorDefinition]:
    """Build the sensors; all run as soon as Dagster's daemon does."""
    return [_minute_snapshot(settings), _log_segments(settings), _late_data(settings)]


def _minute_snapshot(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="minute_snapshot",
        description="Lands one snapshot of Hyperstack a minute as an immutable raw file.",
        minimum_interval_seconds=60,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def minute_snapshot() -> dg.SensorResult | dg.SkipReason:
        try:
            taken = steps.take_snapshot(settings)
        except SpotinferenceError as error:
            return dg.SkipReason(str(error))
        event = dg.AssetMaterialization(
            ["raw", "hyperstack"],
            metadata={"file": dg.MetadataValue.path(str(taken.path)), "answers": taken.exchanges, "failed": taken.failed},
        )
        return dg.SensorResult(asset_events=[event])

    return minute_snapshot


def _log_segments(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name="log_segments",
        description="Asks for one ingest when new log segments were sealed. What was read is decided by the ingest itself.",
        job_name=INGEST_JOB,
        minimum_interval_seconds=60,
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
    @dg.asset_sensor(
        asset_key=dg.AssetKey(["validated", "requests"]),
        name="late_data",
        description="Builds closed days again when an ingest brought rows about days that were built before.",
        job_name=DAILY_JOB,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def late_data(_context: dg.SensorEvaluationContext, event: dg.EventLogEntry) -> Iterator[dg.RunRequest]:
        late = event.asset_materialization.metadata.get(reports.LATE_DAYS) if event.asset_materialization else None
        days = [date.fromisoformat(str(day)) for day in (late.value if late else [])]  # type: ignore[union-attr]
        for utc_day in touched_days(days, last_closed_day(settings.clock())):
            yield dg.RunRequest(run_key=f"{event.run_id}:{utc_day}", partition_key=utc_day.isoformat())

    return late_data


def touched_days(late: list[date], last_closed: date) -> list[date]:
    """Give the closed days whose window contains one of the late days."""
    windows = {day + offset * ONE_DAY for day in late for offset in range(TRAILING_DAYS)}
    return sorted(day for day in windows if day <= last_closed)
