-- One row for the UTC day: the organisation's month-to-date total, which knows what no counter shows, at both ends of
-- the day. USD. It lags by up to four minutes. Opening is the last total of an instant at or before the day, 0 on the
-- first of a month; closing the first of five minutes after it or later, in the same month. So both hold whatever the
-- day cost. Where the month ends before, or nobody read it yet, closing is the last total before, and short what may be
-- missing from it: the time at the price of all counters and, besides, at the mean of the day. Null where no total was
-- read in the last 15 minutes of the day or later. docs/method.md, "Bounds".
with totals as (
    select
        window_end as told_at,
        max_by(amount_usd, observed_at) as total_usd
    from validated.billing_history
    where
        resource_type = 'organisation'
        and figure = 'incurred_bill'
        and window_start = date_trunc('month', cast($utc_day as date))
    group by window_end
),

edges as (
    select
        if(
            day(cast($utc_day as date)) = 1,
            cast(cast($utc_day as date) as timestamptz),
            max(told_at) filter (where told_at <= cast($utc_day as date))
        ) as opened_at,
        coalesce(
            min(told_at) filter (where told_at >= cast($utc_day as date) + interval '1 day 5 minutes'),
            max(told_at) filter (where told_at >= cast($utc_day as date) + interval '23 hours 45 minutes')
        ) as closed_at
    from totals
),

ends as (
    select
        edges.opened_at,
        edges.closed_at,
        cast(if(day(cast($utc_day as date)) = 1, 0, opening.total_usd) as decimal(38, 9)) as opening_usd,
        cast(closing.total_usd as decimal(38, 9)) as closing_usd,
        date_diff('second', edges.opened_at, edges.closed_at) as seconds,
        if(
            edges.closed_at >= cast($utc_day as date) + interval '1 day 5 minutes',
            0,
            date_diff('minute', edges.closed_at, cast($utc_day as date) + interval '1 day 5 minutes')
        ) as short_minutes
    from edges
    left join totals as opening on edges.opened_at = opening.told_at
    left join totals as closing on edges.closed_at = closing.told_at
),

highest as (
    select max(rate_usd_per_minute) as rate_usd_per_minute
    from validated.billing_snapshots
    where
        not is_excluded
        and observed_at >= cast($utc_day as date) - interval 15 minutes
        and observed_at < cast($utc_day as date) + interval '1 day 15 minutes'
    group by resource_type, resource_id, created_at
),

price as (
    select cast(coalesce(sum(rate_usd_per_minute), 0) as decimal(28, 15)) as usd_per_minute
    from highest
)

select
    cast($utc_day as date) as utc_day,
    ends.opened_at,
    ends.closed_at,
    ends.opening_usd,
    ends.closing_usd,
    case
        when ends.closing_usd is null then null
        when ends.short_minutes = 0 then cast(0 as decimal(38, 15))
        when ends.closing_usd <= ends.opening_usd
            then cast(ends.short_minutes * price.usd_per_minute as decimal(38, 15))
        -- in whole micro-dollars, rounded up
        else
            cast(
                ends.short_minutes * price.usd_per_minute
                + cast(
                    cast((ends.closing_usd - ends.opening_usd) * 1000000 as hugeint)
                    * 60 * ends.short_minutes // nullif(ends.seconds, 0) + 1 as decimal(30, 0)
                ) * 0.000001 as decimal(38, 15)
            )
    end as short_usd,
    price.usd_per_minute as counted_usd_per_minute
from ends
cross join price
