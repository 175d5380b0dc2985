-- One row for the UTC day: how many of its minutes have a good snapshot. docs/method.md, "Coverage".
-- A minute is good when the active counters were read as a whole and are not empty while the fleet is not.
with exchanges as (
    select
        endpoint,
        query,
        is_good,
        items,
        date_trunc('minute', scheduled_at) as minute
    from validated.exchanges
    where
        scheduled_at >= cast($utc_day as date)
        and scheduled_at < cast($utc_day as date) + interval 1 day
),

minutes as (
    select
        minute,
        coalesce(bool_or(
            is_good and endpoint = '/billing/billing/usage' and query like '%deleted=false%'
        ), false) as has_counters,
        coalesce(sum(items) filter (
            where endpoint = '/billing/billing/usage' and query like '%deleted=false%'
        ), 0) as resources,
        coalesce(sum(items) filter (where endpoint = '/core/virtual-machines'), 0) as machines
    from exchanges
    group by minute
)

select
    cast($utc_day as date) as utc_day,
    cast(1440 as bigint) as minutes_expected,
    (
        select count(*) filter (where has_counters and (resources > 0 or machines = 0)) from minutes
    ) as minutes_good,
    (select count(*) from exchanges) as exchanges,
    (select count(*) filter (where not is_good) from exchanges) as exchanges_failed
