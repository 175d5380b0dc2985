-- One row for the day D: figures behind the number over the seven UTC days that end with D. Ratios at 6 decimals,
-- null where the denominator is 0 or unknown. docs/method.md, "Figures".
with vm_sums as (
    select
        sum(alive_seconds) as alive_seconds,
        sum(active_seconds) as active_seconds,
        sum(busy_seconds) as busy_seconds,
        sum(cold_start_seconds) as cold_start_seconds,
        sum(wakes) as wakes,
        sum(failed_wakes) as failed_wakes
    from rollup.vm_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

token_sums as (
    select
        coalesce(sum(requests - refused_requests), 0) as reached_requests,
        coalesce(sum(requests) filter (where usage_source = 'engine_final'), 0) as exact_requests,
        sum(prompt_tokens) as prompt_tokens,
        sum(completion_tokens) as completion_tokens,
        sum(cached_tokens) as cached_tokens,
        sum(cached_known_prompt_tokens) as cached_known_prompt_tokens,
        sum(reasoning_tokens) as reasoning_tokens,
        sum(reasoning_known_completion_tokens) as reasoning_known_completion_tokens
    from rollup.token_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

seen as (
    select sum(minutes_good) as minutes_good
    from rollup.snapshot_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

reconciled as (
    select
        count(*) filter (where is_agreed) as days_reconciled,
        count(*) filter (where is_agreed and is_final) as days_final,
        sum(residual_usd) as residual_usd,
        sum(unattributed_usd) as unattributed_usd
    from rollup.reconciliation_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
)

select
    cast($utc_day as date) as utc_day,
    cast(round(coalesce(seen.minutes_good, 0) / (7 * 1440), 6) as decimal(18, 6)) as snapshot_coverage_ratio,
    cast(
        round(token_sums.exact_requests / nullif(token_sums.reached_requests, 0), 6) as decimal(18, 6)
    ) as exact_usage_ratio,
    cast(token_sums.reached_requests - token_sums.exact_requests as bigint) as unmeasured_requests,
    cast(round(vm_sums.busy_seconds / nullif(vm_sums.active_seconds, 0), 6) as decimal(18, 6)) as duty_cycle_ratio,
    cast(round(vm_sums.active_seconds / nullif(vm_sums.alive_seconds, 0), 6) as decimal(18, 6)) as powered_ratio,
    cast(coalesce(vm_sums.wakes, 0) as bigint) as cold_starts,
    cast(coalesce(vm_sums.failed_wakes, 0) as bigint) as failed_cold_starts,
    cast(coalesce(vm_sums.cold_start_seconds, 0) as decimal(18, 6)) as cold_start_seconds,
    cast(
        round(token_sums.cached_tokens / nullif(token_sums.cached_known_prompt_tokens, 0), 6) as decimal(18, 6)
    ) as cache_hit_ratio,
    cast(
        round(token_sums.reasoning_tokens / nullif(token_sums.reasoning_known_completion_tokens, 0), 6)
        as decimal(18, 6)
    ) as reasoning_ratio,
    cast(
        round(token_sums.completion_tokens / nullif(token_sums.prompt_tokens, 0), 6) as decimal(18, 6)
    ) as output_input_ratio,
    cast(
        round(
            (coalesce(token_sums.prompt_tokens, 0) + coalesce(token_sums.completion_tokens, 0))
            / nullif(vm_sums.busy_seconds, 0),
            6
        ) as decimal(18, 6)
    ) as tokens_per_busy_second,
    reconciled.days_reconciled,
    reconciled.days_final,
    cast(reconciled.residual_usd as decimal(38, 15)) as residual_usd,
    cast(reconciled.unattributed_usd as decimal(38, 15)) as unattributed_usd
from vm_sums
cross join token_sums
cross join seen
cross join reconciled
