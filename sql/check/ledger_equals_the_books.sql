-- Resources, and the day as a whole, whose cost in the ledger is not the bill of Hyperstack's newest complete book. On
-- the last day of a month that has a book: not that bill plus what the month's book has beyond the books of its days.
with windows as (
    select
        starts.start_at,
        starts.start_at + interval 1 day as end_at
    from (
        select
            unnest(
                generate_series(
                    if(
                        $utc_day = last_day(cast($utc_day as date)),
                        date_trunc('month', cast($utc_day as date)),
                        cast($utc_day as date)
                    ),
                    cast($utc_day as date),
                    interval 1 day
                )
            ) as start_at
    ) as starts

    union all

    select
        date_trunc('month', cast($utc_day as date)) as start_at,
        date_trunc('month', cast($utc_day as date)) + interval 1 month as end_at
    where $utc_day = last_day(cast($utc_day as date))
),

answers as (
    select
        exchanges.source_file,
        windows.start_at,
        windows.end_at,
        exchanges.endpoint,
        bool_or(exchanges.is_good) as is_good,
        max(exchanges.observed_at) as answered_at
    from validated.exchanges as exchanges
    inner join windows
        on
            left(exchanges.query, 59)
            = strftime(windows.start_at, 'start_date=%Y-%m-%dT00:00:00')
            || strftime(windows.end_at, '&end_date=%Y-%m-%dT00:00:00')
    where regexp_full_match(exchanges.endpoint, '/billing/billing/history(/[a-z_-]+)?')
    group by exchanges.source_file, windows.start_at, windows.end_at, exchanges.endpoint, exchanges.query
),

totals as (
    -- where all is an exact repeat of another file, or no total can be read, there is none
    select distinct
        source_file,
        window_start as start_at,
        window_end as end_at
    from validated.billing_history
    where
        resource_type = 'organisation' and figure = 'incurred_bill' and observed_at >= window_end + interval 2 hours
),

books as (
    select
        answers.source_file,
        answers.start_at,
        answers.end_at,
        max(answers.answered_at) as last_at
    from answers
    inner join totals
        on
            answers.source_file = totals.source_file
            and answers.start_at = totals.start_at
            and answers.end_at = totals.end_at
    group by answers.source_file, answers.start_at, answers.end_at
    having
        bool_and(answers.is_good)
        and min(answers.answered_at) >= answers.end_at + interval 2 hours
        and count(distinct answers.endpoint) filter (
            where answers.endpoint in (
                '/billing/billing/history',
                '/billing/billing/history/virtual-machine',
                '/billing/billing/history/volume',
                '/billing/billing/history/snapshot',
                '/billing/billing/history/cluster',
                '/billing/billing/history/bucket',
                '/billing/billing/history/contract'
            )
        ) = 7
),

known as (
    -- the newest book of each day before each of the month's
    select
        months.source_file as month_file,
        months.last_at as month_at,
        days.start_at,
        arg_max(days.source_file, (days.last_at, days.source_file)) as day_file
    from books as months
    inner join books as days on months.last_at >= days.last_at
    where months.end_at - months.start_at > interval 1 day and days.end_at - days.start_at = interval 1 day
    group by months.source_file, months.last_at, days.start_at
),

month as (
    select month_file
    from known
    group by month_file, month_at
    having count(*) = day(last_day(cast($utc_day as date)))
    order by month_at desc, month_file desc
    limit 1
),

counted as (
    select
        1 as sign,
        start_at,
        end_at,
        arg_max(source_file, (last_at, source_file)) as source_file
    from books
    where start_at = cast($utc_day as date)
    group by start_at, end_at

    union all

    select
        1 as sign,
        books.start_at,
        books.end_at,
        books.source_file
    from books
    inner join month on books.source_file = month.month_file

    union all

    select
        -1 as sign,
        known.start_at,
        known.start_at + interval 1 day as end_at,
        known.day_file as source_file
    from known
    inner join month on known.month_file = month.month_file
),

lines as (
    select
        counted.sign,
        counted.start_at,
        counted.end_at,
        history.resource_type,
        coalesce(history.resource_id, 0) as resource_id,
        arg_max(history.amount_usd, (history.observed_at, history.source_line)) as bill_usd
    from validated.billing_history as history
    inner join counted
        on
            history.source_file = counted.source_file
            and history.window_start = counted.start_at
            and history.window_end = counted.end_at
    where history.figure = 'incurred_bill' and history.observed_at >= counted.end_at + interval 2 hours
    group by
        counted.sign, counted.start_at, counted.end_at, history.resource_type, history.resource_id, history.billing_id
),

bills as (
    select
        sign,
        resource_type,
        resource_id,
        sum(bill_usd) as exact_usd,
        cast(floor(exact_usd * 1000000000) as hugeint) as nanos,
        exact_usd * 1000000000 - floor(exact_usd * 1000000000) as rest,
        -- read at nano-dollars, half to even
        nanos + case when rest > 0.5 or (rest = 0.5 and nanos % 2 != 0) then 1 else 0 end as bill_nanos
    from lines
    group by sign, start_at, end_at, resource_type, resource_id
),

billed as (
    select
        resource_type,
        resource_id,
        cast(sum(sign * bill_nanos) as decimal(29, 0)) * 0.000000001 as bill_usd
    from bills
    group by resource_type, resource_id
),

costs as (
    select
        resource_type,
        resource_id,
        sum(cost_usd) as cost_usd
    from rollup.cost_days
    where utc_day = $utc_day and resource_type != 'unattributed'
    group by resource_type, resource_id

    union all

    select
        'organisation' as resource_type,
        0 as resource_id,
        sum(cost_usd) as cost_usd
    from rollup.cost_days
    where utc_day = $utc_day
)

select
    coalesce(billed.resource_type, costs.resource_type) as resource_type,
    coalesce(billed.resource_id, costs.resource_id) as resource_id,
    coalesce(billed.bill_usd, 0) as bill_usd,
    coalesce(costs.cost_usd, 0) as cost_usd
from billed
full outer join costs on billed.resource_type = costs.resource_type and billed.resource_id = costs.resource_id
where
    exists (select 1 from counted)
    and (billed.resource_type is not null or costs.resource_type in (
        'vm', 'volume', 'snapshot', 'cluster', 'bucket', 'contract'
    ))
    and coalesce(billed.bill_usd, 0) != coalesce(costs.cost_usd, 0)
order by coalesce(billed.resource_type, costs.resource_type), coalesce(billed.resource_id, costs.resource_id)
