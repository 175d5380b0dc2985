-- One row for the day D: US dollars per million tokens, 1e6 * paid / served of the seven UTC days that end with D.
-- Divided last, in integers, because a quotient of decimals would be a binary float: with paid in units of 1e-15 USD,
-- 1000 * paid // served counts units of 1e-12 USD per million, rounded half to even. Null when nothing was served.
-- docs/method.md, "The number".
with sums as (
    select
        paid.utc_day,
        paid.paid_usd,
        served.served_tokens,
        served.requests,
        served.prompt_tokens,
        served.completion_tokens,
        served.cached_tokens,
        served.reasoning_tokens,
        1000 * cast(paid.paid_usd * 1000000000000000 as hugeint) as dividend,
        cast(nullif(served.served_tokens, 0) as hugeint) as divisor
    from metric.paid
    inner join metric.served on paid.utc_day = served.utc_day
    where paid.utc_day = $utc_day
),

quotients as (
    select
        utc_day,
        divisor,
        (dividend - ((dividend % divisor) + divisor) % divisor) // divisor as quotient,
        ((dividend % divisor) + divisor) % divisor as remainder
    from sums
),

rounded as (
    select
        utc_day,
        quotient + case
            when 2 * remainder > divisor then 1
            when 2 * remainder = divisor and quotient % 2 != 0 then 1
            else 0
        end as units
    from quotients
)

select
    sums.utc_day,
    cast(sums.utc_day - 6 as timestamptz) as window_start,
    cast(sums.utc_day + 1 as timestamptz) as window_end,
    sums.paid_usd,
    sums.served_tokens,
    cast(rounded.units as decimal(38, 0)) * cast(0.000000000001 as decimal(13, 12)) as usd_per_million_tokens,
    sums.requests,
    sums.prompt_tokens,
    sums.completion_tokens,
    sums.cached_tokens,
    sums.reasoning_tokens
from sums
inner join rounded on sums.utc_day = rounded.utc_day
