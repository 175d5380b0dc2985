-- One row per supposed duty cycle D' of the day D, from 0.1 to 1, and one for the duty cycle that was measured: the USD
-- per million tokens that the window would have come to, 1e6 * R / (theta * D') + 1e6 * fixed / served', where served'
-- = theta * D' * ACTIVE seconds. Assumes the same machines, seconds and fixed costs, and tokens per busy second (theta)
-- that stay the same, which is pessimistic at higher load: batches grow. Credits are left out, so the measured row is
-- the number without them. At 6 decimals, divided in binary floats. docs/method.md, "Break-even and what-if".
with costs as (
    select
        utc_day,
        running_usd + fixed_usd as usd,
        served_tokens,
        busy_gpu_seconds / active_gpu_seconds as measured_ratio
    from metric.load_costs
    where utc_day = $utc_day
),

supposed as (
    select
        unnest(range(1, 11)) / 10 as ratio,
        false as is_measured
    union all
    select
        measured_ratio as ratio,
        true as is_measured
    from costs
    where measured_ratio is not null
)

select
    costs.utc_day,
    cast(round(supposed.ratio, 6) as decimal(18, 6)) as duty_cycle_ratio,
    supposed.is_measured,
    cast(
        round(
            metric.what_if_usd_per_million(costs.usd, costs.served_tokens, costs.measured_ratio, supposed.ratio), 6
        ) as decimal(38, 6)
    ) as usd_per_million_tokens
from costs
cross join supposed
order by supposed.ratio, supposed.is_measured
