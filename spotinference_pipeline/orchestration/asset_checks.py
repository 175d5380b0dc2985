"""One Dagster check per rule of `checks`, in front of everything downstream of the table it is about; warnings let pass."""

import dagster as dg

from spotinference_pipeline import checks
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.orchestration.assets import POOL, key
from spotinference_pipeline.settings import Settings

TABLES = {
    "a_month_is_the_sum_of_its_days": "rollup.adjustments",
    "books_agree_with_the_counters": "rollup.reconciliation_days",
    "clocks_agree": "rollup.snapshot_days",
    "counters_hold_what_the_total_does": "metric.bounds",
    "each_request_counts_once": "rollup.token_days",
    "every_row_is_accounted_for": "rollup.snapshot_days",
    "kinds_add_up_to_the_counter": "rollup.cost_days",
    "ledger_equals_the_books": "rollup.cost_days",
    "log_agrees_with_the_engines": "rollup.token_residuals",
    "only_credits_are_negative": "rollup.cost_days",
    "parts_add_up_to_the_number": "metric.cost_parts",
    "sizes_are_the_tokens": "metric.break_even",
    "tokens_of_the_window_are_its_requests": "metric.cost_per_mtok",
}
"""The table after which each rule can be checked."""


def build_checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    """Build every check; each covers the days of its run."""
    return [_check(settings, name, meaning) for name, meaning in checks.describe().items()]


def _check(settings: Settings, name: str, meaning: str) -> dg.AssetChecksDefinition:
    blocks = name not in checks.WARNINGS

    @dg.asset_check(asset=key(TABLES[name]), name=name, description=meaning, blocking=blocks, pool=POOL)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        wanted = steps.days_of(context.partition_keys)
        return reports.checked(
            [finding for _, finding in steps.run_check(settings, name, wanted)], meaning, blocks=blocks
        )

    return check
