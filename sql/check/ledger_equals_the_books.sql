-- Resources, and the day as a whole, whose cost in the ledger is not the bill of Hyperstack's newest complete book.
with asked as (
    select
        source_file,
        bool_and(answer_is_good) as is_good,
        count(distinct endpoint) filter (
            where endpoint in (
                '/billing/billing/history',
                '/billing/billing/history/virtual-machine',
                '/billing/billing/history/volume',
                '/billing/billing/history/snapshot',
                '/billing/billing/history/cluster',
                '/billing/billing/history/bucket',
                '/billing/billing/history/contract'
            )
        ) as needed,
        min(answered_at) as first_at,
        max(answered_at) as last_at
    from (
        select
            source_file,
            endpoint,
            query,
            bool_or(is_good) as answer_is_good,
            max(observed_at) as answered_at
        from validated.exchanges
        where
            regexp_full_match(endpoint, '/billing/billing/history(/[a-z_-]+)?')
            and starts_with(
                query,
                'start_date=' || strftime(cast($utc_day as date), '%Y-%m-%dT00:00:00')
                || '&end_date=' || strftime(cast($utc_day as date) + 1, '%Y-%m-%dT00:00:00')
            )
        group by source_file, endpoint, query
    ) as answers
    group by source_file
),

newest as (
    select source_file
    from asked
    where is_good and needed = 7 and first_at >= cast($utc_day as date) + interval 26 hours
    order by last_at desc, source_file desc
    limit 1
),

lines as (
    select
        history.resource_type,
        coalesce(history.resource_id, 0) as resource_id,
        arg_max(history.amount_usd, (history.observed_at, history.source_line)) as bill_usd
    from validated.billing_history as history
    inner join newest on history.source_file = newest.source_file
    where
        history.figure = 'incurred_bill'
        and history.window_start = cast($utc_day as date)
        and history.window_end = cast($utc_day as date) + 1
    group by history.resource_type, history.resource_id, history.billing_id
),

billed as (
    select
        resource_type,
        resource_id,
        sum(bill_usd) as exact_usd,
        cast(floor(exact_usd * 1000000000) as hugeint) as nanos,
        exact_usd * 1000000000 - floor(exact_usd * 1000000000) as rest,
        -- read at nano-dollars, half to even
        cast(
            nanos + case when rest > 0.5 or (rest = 0.5 and nanos % 2 != 0) then 1 else 0 end as decimal(29, 0)
        ) * 0.000000001 as bill_usd
    from lines
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
    exists (select 1 from newest)
    and (billed.resource_type is not null or costs.resource_type in (
        'vm', 'volume', 'snapshot', 'cluster', 'bucket', 'contract'
    ))
    and coalesce(billed.bill_usd, 0) != coalesce(costs.cost_usd, 0)
order by coalesce(billed.resource_type, costs.resource_type), coalesce(billed.resource_id, costs.resource_id)
