-- Days without a book on which the organisation's total moved by 1 % more than the counters: something is billed that
-- no counter shows, so the number is too low until the book is read. A warning; the upper bound holds it.
-- Not counted as more: what all counters cost at their highest price in the time by which the two readings of the
-- total reach beyond the day, and in five minutes of its lag.
with counted as (
    select coalesce(sum(cost_usd), 0) as counted_usd
    from rollup.resource_days
    where utc_day = $utc_day
),

compared as (
    select
        totals.utc_day,
        totals.opened_at,
        totals.closed_at,
        totals.closing_usd - totals.opening_usd as total_usd,
        counted.counted_usd,
        cast(
            totals.counted_usd_per_minute
            * (greatest(date_diff('minute', totals.opened_at, totals.closed_at) - 1440, 0) + 5) as decimal(38, 15)
        ) as slack_usd
    from rollup.organisation_days as totals
    cross join counted
    where
        totals.utc_day = $utc_day
        and totals.utc_day not in (select books.utc_day from rollup.reconciliation_days as books)
)

select
    utc_day,
    opened_at,
    closed_at,
    total_usd,
    counted_usd,
    slack_usd
from compared
where 100 * (total_usd - counted_usd - slack_usd) > abs(counted_usd)
