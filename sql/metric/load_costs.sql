-- One row for the day D, over the seven UTC days that end with D and all machines together: running_usd, what busy and
-- idle time cost; fixed_usd, what does not follow the load; and from them USD per ACTIVE second, tokens per busy
-- second, and fixed USD per million tokens. Sums are exact, the three rates are figures, divided in binary floats. Null
-- where nothing was busy, served or known. docs/method.md, "Break-even and what-if".
with seconds as (
    select
        nullif(sum(active_seconds), 0) as active_seconds,
        nullif(sum(busy_seconds), 0) as busy_seconds
    from rollup.vm_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
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
        seconds.active_seconds,
        seconds.busy_seconds
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
    cast(active_seconds as decimal(18, 6)) as active_seconds,
    cast(busy_seconds as decimal(18, 6)) as busy_seconds,
    cast(round(running_usd / active_seconds, 12) as decimal(38, 12)) as usd_per_active_second,
    cast(round(served_tokens / busy_seconds, 6) as decimal(18, 6)) as tokens_per_busy_second,
    cast(round(1000000 * cast(fixed_usd as double) / served_tokens, 12) as decimal(38, 12))
        as fixed_usd_per_million_tokens
from sums
