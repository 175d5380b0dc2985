-- One row for the day D, over the seven UTC days that end with D and all machines together: running_usd, what busy and
-- idle time cost; fixed_usd, what does not follow the load; and from them USD per ACTIVE GPU-second, tokens per busy
-- GPU-second, and fixed USD per million tokens. GPU-seconds are seconds times the machine's GPUs, as in the duty
-- cycle: 1 where their number is not known. Null where nothing was busy, served or known: busy time is unknown where
-- tokens were served on machines that the log does not name. docs/method.md, "Break-even and what-if".
with machines as (
    select
        active_seconds,
        busy_seconds,
        coalesce(gpu_count, max(gpu_count) over (partition by vm_id), 1) as gpus
    from rollup.vm_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

unplaced as (
    select coalesce(sum(coalesce(prompt_tokens, 0) + coalesce(completion_tokens, 0)), 0) as tokens
    from rollup.vm_token_days
    where vm_id is null and utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

seconds as (
    select
        nullif(sum(machines.active_seconds * machines.gpus), 0) as active_gpu_seconds,
        nullif(sum(machines.busy_seconds * machines.gpus) filter (where unplaced.tokens = 0), 0) as busy_gpu_seconds
    from machines
    cross join unplaced
),

costs as (
    select
        nullif(sum(paid_usd) filter (where cost_kind in ('busy', 'idle')), 0) as running_usd,
        sum(paid_usd) filter (
            where cost_kind in ('cold_start', 'parked', 'storage', 'network', 'other')
        ) as fixed_usd
    from metric.cost_parts
    where utc_day = $utc_day
),

sums as (
    select
        cost.utc_day,
        if(cost.paid_usd is null, null, costs.running_usd) as running_usd,
        if(cost.paid_usd is null, null, costs.fixed_usd) as fixed_usd,
        nullif(cost.served_tokens, 0) as served_tokens,
        seconds.active_gpu_seconds,
        seconds.busy_gpu_seconds
    from metric.cost_per_mtok as cost
    cross join costs
    cross join seconds
    where cost.utc_day = $utc_day
)

select
    utc_day,
    cast(running_usd as decimal(38, 15)) as running_usd,
    cast(fixed_usd as decimal(38, 15)) as fixed_usd,
    served_tokens,
    cast(active_gpu_seconds as decimal(18, 6)) as active_gpu_seconds,
    cast(busy_gpu_seconds as decimal(18, 6)) as busy_gpu_seconds,
    cast(
        metric.usd_per_million(running_usd, cast(active_gpu_seconds * 1000000 as hugeint)) as decimal(38, 12)
    ) as usd_per_active_gpu_second,
    cast(
        metric.ratio(1000000 * served_tokens, cast(busy_gpu_seconds * 1000000 as hugeint)) as decimal(18, 6)
    ) as tokens_per_busy_gpu_second,
    cast(metric.usd_per_million(fixed_usd, served_tokens) as decimal(38, 12)) as fixed_usd_per_million_tokens
from sums
