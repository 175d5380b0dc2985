"""How old each asset may be before somebody should look: laid over all assets in one place, after the schedules.

Dagster's daemon shows an asset past its time as overdue. Snapshots land every minute, ingests run every hour, the day that is
over is built from 00:20 UTC on and must be published at 02:00. Left out: what changes only when somebody loads it or asks.
"""

from datetime import timedelta

import dagster as dg

EVERY_MINUTE = dg.FreshnessPolicy.time_window(fail_window=timedelta(minutes=15), warn_window=timedelta(minutes=5))
EVERY_QUARTER = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=1))
"""Log segments: sealed every minute, looked for every 15 minutes."""
EVERY_HOUR = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(hours=2))
BY_TWO = dg.FreshnessPolicy.cron("0 2 * * *", timedelta(hours=2))
_BY_KEY: dict[str, dg.FreshnessPolicy] = {
    "raw/hyperstack": EVERY_MINUTE,
    "raw/request_log": EVERY_QUARTER,
    "raw/list_prices": EVERY_HOUR,
}


def watched(spec: dg.AssetSpec) -> dg.AssetSpec:
    """Give an asset its freshness policy, if time makes it stale."""
    policy: dg.FreshnessPolicy | None = _BY_KEY.get(spec.key.to_user_string())
    if spec.group_name == "validated":
        policy = EVERY_HOUR
    elif spec.group_name != "raw" and spec.partitions_def is not None:
        policy = BY_TWO
    return spec if policy is None else dg.apply_freshness_policy(spec, policy)
