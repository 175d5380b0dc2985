-- One row for the UTC day: the prepaid balance, a third counter beside the running counters and the history. USD.
-- Balances are the last readings at or before the two midnights; usage is what the running counters moved by between
-- the same two instants, straight between their readings. drift = opening - closing + topped up - usage.
-- Topped up: what the balance rose by between two readings and the counters do not explain, in whole cents; where a
-- payment was made between them, its amount if that explains the rise to within a dollar. Paid in: all payments. All
-- null where no prepaid balance was read, or it is always zero: a postpaid account. docs/method.md, "Credit drift".
with payments as (
    select
        payment_id,
        min(paid_at) as paid_at,
        max_by(amount_usd, observed_at) as amount_usd
    from validated.payments
    where lower(payment_status) in ('success', 'succeeded', 'paid', 'complete', 'completed')
    group by payment_id
),

balances as (
    select
        observed_at,
        max(balance_usd) as balance_usd
    from validated.credit_balances
    where observed_at <= cast($utc_day as date) + interval 1 day
    group by observed_at
),

edges as (
    select
        max(observed_at) filter (where observed_at <= cast($utc_day as date)) as opened_at,
        max(observed_at) as closed_at,
        max_by(balance_usd, observed_at) filter (where observed_at <= cast($utc_day as date)) as opening_usd,
        max_by(balance_usd, observed_at) as closing_usd
    from balances
),

readings as (
    select
        balances.observed_at,
        balances.balance_usd,
        lag(balances.observed_at) over (order by balances.observed_at) as before_at,
        balances.balance_usd - lag(balances.balance_usd) over (order by balances.observed_at) as rise_usd
    from balances
    inner join edges on balances.observed_at >= edges.opened_at and edges.opened_at < edges.closed_at
),

seen as (
    select count(*) - 1 as readings
    from readings
    having bool_or(balance_usd != 0)
),

spans as (
    select
        opened_at as start_at,
        closed_at as end_at,
        null as rise_usd,
        0 as paid_usd
    from edges
    where opened_at < closed_at

    union all

    select
        readings.before_at as start_at,
        readings.observed_at as end_at,
        readings.rise_usd,
        coalesce(sum(payments.amount_usd), 0) as paid_usd
    from readings
    left join payments on readings.before_at < payments.paid_at and readings.observed_at >= payments.paid_at
    group by readings.before_at, readings.observed_at, readings.rise_usd
    having readings.rise_usd > 0.000001 or coalesce(sum(payments.amount_usd), 0) != 0
),

ends as (
    select
        resource_type,
        resource_id,
        created_at,
        max(terminated_at) as ended_at
    from validated.billing_snapshots
    where not is_active
    group by resource_type, resource_id, created_at
),

-- without stale answers: from after the end of a resource, and still active
snapshots as (
    select
        shots.resource_type,
        shots.resource_id,
        shots.created_at,
        if(
            shots.is_active or shots.terminated_at is null, shots.observed_at, shots.terminated_at
        ) as read_at,
        cast(shots.total_bill_usd * 1000000000 as hugeint) as nanos
    from validated.billing_snapshots as shots
    inner join edges
        on
            shots.observed_at >= edges.opened_at - interval 2 days
            and shots.observed_at <= edges.closed_at + interval 2 days
    left join ends
        on
            shots.resource_type = ends.resource_type
            and shots.resource_id = ends.resource_id
            and shots.created_at = ends.created_at
    where
        not shots.is_excluded
        and (not shots.is_active or ends.ended_at is null or shots.observed_at <= ends.ended_at)
    qualify row_number() over (
        partition by shots.resource_type, shots.resource_id, shots.created_at, read_at
        order by shots.observed_at desc
    ) = 1
),

counters as (
    select
        resource_type,
        resource_id,
        created_at,
        read_at,
        nanos
    from snapshots

    union all

    select distinct
        snapshots.resource_type,
        snapshots.resource_id,
        snapshots.created_at,
        snapshots.created_at as read_at,
        cast(0 as hugeint) as nanos
    from snapshots
    inner join edges on snapshots.created_at >= edges.opened_at - interval 2 days
),

instants as (
    select start_at as instant from spans
    union
    select end_at as instant from spans
),

bracketed as (
    select
        instants.instant,
        max(counters.read_at) filter (where counters.read_at <= instants.instant) as before_at,
        max_by(counters.nanos, counters.read_at) filter (where counters.read_at <= instants.instant) as before_nanos,
        min(counters.read_at) filter (where counters.read_at > instants.instant) as after_at,
        min_by(counters.nanos, counters.read_at) filter (where counters.read_at > instants.instant) as after_nanos
    from instants
    cross join counters
    group by instants.instant, counters.resource_type, counters.resource_id, counters.created_at
),

bills as (
    select
        instant,
        cast(
            sum(
                case
                    when before_at is null then after_nanos
                    when after_at is null then before_nanos
                    else
                        before_nanos
                        + (after_nanos - before_nanos) * (epoch_us(instant) - epoch_us(before_at))
                        // (epoch_us(after_at) - epoch_us(before_at))
                end
            ) as decimal(28, 0)
        ) * cast(0.000000001 as decimal(10, 9)) as bill_usd
    from bracketed
    group by instant
),

used as (
    select
        spans.rise_usd,
        spans.paid_usd,
        coalesce(closing.bill_usd, 0) - coalesce(opening.bill_usd, 0) as usage_usd
    from spans
    left join bills as opening on spans.start_at = opening.instant
    left join bills as closing on spans.end_at = closing.instant
),

sums as (
    select
        cast(sum(usage_usd) filter (where rise_usd is null) as decimal(28, 9)) as usage_usd,
        cast(
            coalesce(
                sum(
                    if(
                        paid_usd != 0 and abs(rise_usd + usage_usd - paid_usd) <= 1,
                        paid_usd,
                        greatest(round(rise_usd + usage_usd, 2), 0)
                    )
                ) filter (where rise_usd is not null),
                0
            ) as decimal(28, 9)
        ) as topped_up_usd
    from used
),

paid as (
    select coalesce(sum(payments.amount_usd), 0) as paid_in_usd
    from edges
    inner join payments on edges.opened_at < payments.paid_at and edges.closed_at >= payments.paid_at
    having
        exists (
            select 1
            from validated.exchanges as exchanges
            inner join edges as ends on exchanges.observed_at >= ends.closed_at
            where exchanges.endpoint = '/billing/payment/payment-details' and exchanges.is_good
        )
)

select
    cast($utc_day as date) as utc_day,
    if(seen.readings is null, null, edges.opened_at) as opened_at,
    if(seen.readings is null, null, edges.closed_at) as closed_at,
    cast(if(seen.readings is null, null, edges.opening_usd) as decimal(28, 9)) as opening_balance_usd,
    cast(if(seen.readings is null, null, edges.closing_usd) as decimal(28, 9)) as closing_balance_usd,
    if(seen.readings is null, null, sums.topped_up_usd) as topped_up_usd,
    cast(if(seen.readings is null, null, paid.paid_in_usd) as decimal(28, 9)) as paid_in_usd,
    if(seen.readings is null, null, sums.usage_usd) as usage_usd,
    cast(
        if(
            seen.readings is null,
            null,
            edges.opening_usd - edges.closing_usd + sums.topped_up_usd - sums.usage_usd
        ) as decimal(28, 9)
    ) as drift_usd,
    cast(coalesce(seen.readings, 0) as bigint) as readings
from edges
cross join sums
left join paid on true
left join seen on true
