-- One row per basket and price of it (min, median) for the day D: the duty cycles from which on our own machines would
-- be cheaper than that price P; never where it is not in (0, 1]. duty_cycle_ratio holds the fixed cost per token at
-- what it was: 1e6 * R / (theta * (P - F)), with R = running_usd / ACTIVE GPU-seconds, theta = served / busy
-- GPU-seconds, F = fixed USD per million tokens; whether P is above F is decided in integers.
-- what_if_duty_cycle_ratio spreads fixed costs over the tokens: where metric.what_if is P. That falls as 1 / D', so it
-- is the what_if of a duty cycle of 1, divided by P. At 6 decimals, divided in binary floats. docs/method.md,
-- "Break-even and what-if".
with prices as (
    select
        basket,
        unnest(['min', 'median']) as price_of,
        unnest([min_usd_per_million_tokens, median_usd_per_million_tokens]) as usd_per_million_tokens
    from metric.list_price_baskets
    where utc_day = $utc_day
),

margins as (
    select
        prices.basket,
        prices.price_of,
        prices.usd_per_million_tokens,
        cast(prices.usd_per_million_tokens * 1000000000000 as hugeint) * costs.served_tokens
        - 1000 * cast(costs.fixed_usd * 1000000000000000 as hugeint) as margin,
        1000 * cast(costs.running_usd * 1000000000000000 as hugeint)
        * (costs.busy_gpu_seconds / costs.active_gpu_seconds) as needed,
        cast(
            metric.what_if_usd_per_million(
                costs.running_usd + costs.fixed_usd,
                costs.served_tokens,
                costs.busy_gpu_seconds / costs.active_gpu_seconds,
                1
            ) as decimal(38, 12)
        ) as full_usd_per_million_tokens
    from prices
    cross join metric.load_costs as costs
    where costs.utc_day = $utc_day
),

ratios as (
    select
        basket,
        price_of,
        usd_per_million_tokens,
        case
            when margin is null or needed is null then null
            when margin <= 0 then false
            else needed > 0 and needed <= margin
        end as is_reachable,
        needed / nullif(margin, 0) as ratio,
        full_usd_per_million_tokens > 0
        and full_usd_per_million_tokens <= usd_per_million_tokens as is_what_if_reachable,
        full_usd_per_million_tokens / nullif(usd_per_million_tokens, 0) as what_if_ratio
    from margins
)

select
    cast($utc_day as date) as utc_day,
    basket,
    price_of,
    usd_per_million_tokens,
    cast(round(if(is_reachable, ratio, null), 6) as decimal(18, 6)) as duty_cycle_ratio,
    is_reachable,
    cast(round(if(is_what_if_reachable, what_if_ratio, null), 6) as decimal(18, 6)) as what_if_duty_cycle_ratio,
    is_what_if_reachable
from ratios
order by basket asc, price_of desc
