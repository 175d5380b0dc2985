-- One row for the day D: figures behind the number over the seven UTC days that end with D. Ratios at 6 decimals, USD
-- at 12, half to even, divided in integers; null where the denominator is 0 or unknown. GPU-seconds are seconds times
-- the machine's GPUs: 1 where their number is not known. What rests on busy time is unknown where tokens were served on
-- machines that the log does not name. docs/method.md, "Figures".
with machines as (
    select
        cast(alive_seconds * 1000000 as hugeint) as alive,
        cast(active_seconds * 1000000 as hugeint) as active,
        cast(busy_seconds * 1000000 as hugeint) as busy,
        cold_start_seconds,
        wakes,
        failed_wakes,
        coalesce(gpu_count, max(gpu_count) over (partition by vm_id), 1) as gpus
    from rollup.vm_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

vm_sums as (
    select
        sum(alive) as alive,
        sum(active) as active,
        sum(busy) as busy,
        sum(active * gpus) as active_gpu,
        sum(busy * gpus) as busy_gpu,
        sum(cold_start_seconds) as cold_start_seconds,
        sum(wakes) as wakes,
        sum(failed_wakes) as failed_wakes
    from machines
),

wakes as (
    select
        max_by(is_failed, utc_day) as is_failed,
        sum(cold_seconds) as cold_seconds,
        sum(cost_usd) as cost_usd
    from rollup.wake_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by vm_id, started_at
),

wake_sums as (
    select
        coalesce(sum(cost_usd), 0) as cost_usd,
        coalesce(sum(cold_seconds) filter (where is_failed), 0) as failed_seconds,
        coalesce(sum(cost_usd) filter (where is_failed), 0) as failed_usd
    from wakes
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

unplaced as (
    select coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)), 0) as tokens
    from rollup.vm_token_days
    where vm_id is null and utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

-- when an unnamed machine was busy, and ready, nobody knows
watched as (
    select
        if(unplaced.tokens = 0, vm_sums.busy, null) as busy,
        if(unplaced.tokens = 0, vm_sums.busy_gpu, null) as busy_gpu,
        if(unplaced.tokens = 0, coalesce(vm_sums.wakes, 0), null) as wakes,
        if(unplaced.tokens = 0, coalesce(vm_sums.cold_start_seconds, 0), null) as cold_start_seconds,
        if(unplaced.tokens = 0, wake_sums.cost_usd, null) as cost_usd,
        if(unplaced.tokens = 0, coalesce(vm_sums.failed_wakes, 0), null) as failed_wakes,
        if(unplaced.tokens = 0, wake_sums.failed_seconds, null) as failed_seconds,
        if(unplaced.tokens = 0, wake_sums.failed_usd, null) as failed_usd
    from vm_sums
    cross join wake_sums
    cross join unplaced
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
    cast(metric.ratio(coalesce(seen.minutes_good, 0), 7 * 1440) as decimal(18, 6)) as snapshot_coverage_ratio,
    cast(metric.ratio(token_sums.exact_requests, token_sums.reached_requests) as decimal(18, 6)) as exact_usage_ratio,
    cast(token_sums.reached_requests - token_sums.exact_requests as bigint) as unmeasured_requests,
    cast(unplaced.tokens as bigint) as unplaced_tokens,
    cast(metric.ratio(watched.busy_gpu, vm_sums.active_gpu) as decimal(18, 6)) as duty_cycle_ratio,
    cast(metric.ratio(vm_sums.active, vm_sums.alive) as decimal(18, 6)) as powered_ratio,
    cast(watched.wakes as bigint) as cold_starts,
    cast(watched.cold_start_seconds as decimal(18, 6)) as cold_start_seconds,
    cast(watched.cost_usd as decimal(38, 15)) as cold_start_usd,
    cast(watched.failed_wakes as bigint) as failed_cold_starts,
    cast(watched.failed_seconds as decimal(18, 6)) as failed_cold_start_seconds,
    cast(watched.failed_usd as decimal(38, 15)) as failed_cold_start_usd,
    cast(
        metric.ratio(token_sums.cached_tokens, token_sums.cached_known_prompt_tokens) as decimal(18, 6)
    ) as cache_hit_ratio,
    cast(
        metric.ratio(coalesce(token_sums.cached_known_prompt_tokens, 0), token_sums.prompt_tokens) as decimal(18, 6)
    ) as cache_hit_known_ratio,
    cast(
        metric.ratio(token_sums.reasoning_tokens, token_sums.reasoning_known_completion_tokens) as decimal(18, 6)
    ) as reasoning_ratio,
    cast(
        metric.ratio(
            coalesce(token_sums.reasoning_known_completion_tokens, 0), token_sums.completion_tokens
        ) as decimal(18, 6)
    ) as reasoning_known_ratio,
    cast(metric.ratio(token_sums.completion_tokens, token_sums.prompt_tokens) as decimal(18, 6)) as output_input_ratio,
    cast(
        metric.ratio(
            1000000 * (coalesce(token_sums.prompt_tokens, 0) + coalesce(token_sums.completion_tokens, 0)), watched.busy
        ) as decimal(18, 6)
    ) as tokens_per_busy_second,
    cast(
        metric.usd_per_million(cost.paid_usd, token_sums.prompt_tokens) as decimal(38, 12)
    ) as usd_per_million_prompt_tokens,
    cast(
        metric.usd_per_million(cost.paid_usd, token_sums.completion_tokens) as decimal(38, 12)
    ) as usd_per_million_completion_tokens,
    cast(
        metric.usd_per_million(
            cost.paid_usd, token_sums.completion_tokens - token_sums.reasoning_tokens
        ) as decimal(38, 12)
    ) as usd_per_million_visible_tokens,
    cast(metric.usd_per(cost.paid_usd, token_sums.reached_requests) as decimal(38, 12)) as usd_per_request,
    cast(token_sums.reached_requests as bigint) as answered_requests,
    reconciled.days_reconciled,
    reconciled.days_final,
    cast(reconciled.residual_usd as decimal(38, 15)) as residual_usd,
    cast(reconciled.unattributed_usd as decimal(38, 15)) as unattributed_usd
from vm_sums
cross join watched
cross join unplaced
cross join token_sums
cross join seen
cross join reconciled
left join metric.cost_per_mtok as cost on cost.utc_day = $utc_day
