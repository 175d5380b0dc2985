-- One row per cost_kind of the day D: the parts of the number, in USD and in USD per million tokens, adding up to it
-- exactly. Each part is rounded down at 12 decimals; the units then missing go, one each, to the parts with the
-- largest remainders, ties in the order of the list below. docs/method.md, "Parts".
with kinds as (
    select
        unnest(range(8)) as place,
        unnest(
            ['busy', 'idle', 'cold_start', 'parked', 'storage', 'network', 'other', 'credit']
        ) as cost_kind
),

totals as (
    select
        utc_day,
        usd_per_million_tokens,
        cast(nullif(served_tokens, 0) as hugeint) as divisor
    from metric.cost_per_mtok
    where utc_day = $utc_day
),

paid as (
    select
        kinds.place,
        kinds.cost_kind,
        cast(coalesce(sum(inputs.cost_usd), 0) as decimal(38, 15)) as paid_usd
    from kinds
    left join metric.inputs
        on
            kinds.cost_kind = inputs.cost_kind
            and inputs.utc_day > cast($utc_day as date) - interval 7 days
            and inputs.utc_day <= $utc_day
    group by kinds.place, kinds.cost_kind
),

divided as (
    select
        totals.utc_day,
        paid.place,
        paid.cost_kind,
        paid.paid_usd,
        totals.divisor,
        totals.usd_per_million_tokens,
        1000 * cast(paid.paid_usd * 1000000000000000 as hugeint) as dividend,
        ((dividend % totals.divisor) + totals.divisor) % totals.divisor as remainder,
        (dividend - remainder) // totals.divisor as quotient
    from paid
    cross join totals
),

ranked as (
    select
        utc_day,
        place,
        cost_kind,
        paid_usd,
        quotient,
        row_number() over (order by remainder desc, place asc) as turn,
        cast(usd_per_million_tokens * 1000000000000 as hugeint) - sum(quotient) over () as missing
    from divided
)

select
    utc_day,
    cost_kind,
    paid_usd,
    cast(quotient + case when turn <= missing then 1 else 0 end as decimal(38, 0))
    * cast(0.000000000001 as decimal(13, 12)) as usd_per_million_tokens
from ranked
order by place
