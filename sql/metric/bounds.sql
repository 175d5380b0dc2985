-- One row for the day D: the sums between which the true figure of its window lies. USD and tokens. Spend is unsure
-- where a counter's movement straddles an end of what counters priced: an end of the window, or of a stretch of days
-- with books inside it. It is at most what the organisation's total moved by over such a stretch, which knows what no
-- counter shows. Tokens are at least those with final usage, less what the log has beyond the engines; at most those
-- logged and all that vLLM's counters hold and no row of the log accounts for, of the three days before the window
-- too, for requests that run into it: no bound where rows are lost and not all that is there was witnessed.
-- docs/method.md, "Bounds".
with booked as (
    select utc_day
    from rollup.reconciliation_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

edges as (
    select
        sum(days.edge_usd) as edge_usd,
        sum(days.outside_usd) as outside_usd
    from rollup.resource_days as days
    where
        days.utc_day > cast($utc_day as date) - interval 7 days
        and days.utc_day <= $utc_day
        and (
            days.utc_day in (cast($utc_day as date), cast($utc_day as date) - 6)
            or days.utc_day - 1 in (select booked.utc_day from booked)
            or days.utc_day + 1 in (select booked.utc_day from booked)
        )
),

-- days that cost what the counters moved by
open_days as (
    select
        days.utc_day,
        days.utc_day - 1 not in (select booked.utc_day from booked)
        and days.utc_day != cast($utc_day as date) - 6 and day(days.utc_day) != 1 as has_one_before,
        days.utc_day + 1 not in (select booked.utc_day from booked)
        and days.utc_day != $utc_day and days.utc_day != last_day(days.utc_day) as has_one_after
    from (select cast($utc_day as date) - cast(unnest(range(7)) as integer) as utc_day) as days
    where days.utc_day not in (select booked.utc_day from booked)
),

costs as (
    select
        utc_day,
        sum(cost_usd) as cost_usd
    from rollup.resource_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by utc_day
),

-- what the organisation's total moved by over each stretch of them in one month, beyond the counters
unlisted as (
    select
        sum(if(days.has_one_after, 0, totals.closing_usd + totals.short_usd))
        - sum(if(days.has_one_before, 0, totals.opening_usd))
        - sum(coalesce(costs.cost_usd, 0)) as usd,
        count(*) filter (
            where
            (not days.has_one_after and (totals.closing_usd + totals.short_usd) is null)
            or (not days.has_one_before and totals.opening_usd is null)
        ) as unknown_ends
    from open_days as days
    left join rollup.organisation_days as totals on days.utc_day = totals.utc_day
    left join costs on days.utc_day = costs.utc_day
),

lists as (
    select
        observed_at,
        query = 'deleted=true' as is_of_ended
    from validated.exchanges
    where
        endpoint = '/billing/billing/usage'
        and is_good
        and observed_at >= cast($utc_day as date) - interval 7 days
),

-- after the last of them, the list of all that runs was read as a whole, and then that of all that ended
seen as (
    select count(*) > 0 as to_the_end
    from lists as ended
    where
        ended.is_of_ended
        and ended.observed_at >= (
            select min(running.observed_at)
            from lists as running
            where
                not running.is_of_ended
                and running.observed_at >= (select max(days.utc_day) + 1 from open_days as days)
        )
),

last_seen as (
    select
        max(observed_at) as read_at,
        bool_and(is_active) as is_running,
        max_by(is_excluded, observed_at) as is_excluded
    from validated.billing_snapshots
    group by resource_type, resource_id, created_at
),

-- counters that nobody read when their resource ended, and it did so on one of them
unread as (
    select count(*) as counters
    from last_seen
    where
        is_running
        and not is_excluded
        and exists (
            select 1
            from open_days as days
            where
                days.utc_day + 1 > last_seen.read_at
                and days.utc_day < (
                    select min(lists.observed_at)
                    from lists
                    where not lists.is_of_ended and lists.observed_at > last_seen.read_at
                )
        )
),

tokens as (
    select
        utc_day,
        sum(prompt_tokens) filter (where usage_source = 'engine_final') as exact_prompt_tokens,
        sum(completion_tokens) filter (where usage_source = 'engine_final') as exact_completion_tokens,
        sum(requests - refused_requests)
        - coalesce(sum(requests) filter (where usage_source = 'engine_final'), 0) as unmeasured_requests
    from rollup.token_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by utc_day
),

served as (
    select
        coalesce(sum(tokens.exact_prompt_tokens), 0)
        + coalesce(sum(tokens.exact_completion_tokens), 0) as exact_tokens,
        coalesce(sum(coalesce(log.unbounded_requests, tokens.unmeasured_requests)), 0) as unbounded_requests
    from tokens
    left join rollup.log_days as log on tokens.utc_day = log.utc_day
),

unseen as (
    select
        coalesce(sum(dark_vms), 0) as dark_vms,
        coalesce(
            sum(lost_segments + changed_segments + rows_missing) > 0 and sum(unwitnessed_tokens) > 0, false
        ) as is_unbounded
    from rollup.log_days
    where utc_day > cast($utc_day as date) - interval 10 days and utc_day <= $utc_day
),

surplus as (
    select
        coalesce(
            sum(
                greatest(sure_prompt_tokens - engine_prompt_tokens, 0)
                + greatest(sure_completion_tokens - engine_generation_tokens, 0)
            ),
            0
        ) as tokens
    from rollup.engine_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

unlogged as (
    select
        sum(
            greatest(engine_prompt_tokens - sure_prompt_tokens, 0)
            + greatest(engine_generation_tokens - sure_completion_tokens, 0)
            + if(utc_day = $utc_day, overhang_tokens, 0)
        ) as tokens
    from rollup.engine_days
    where utc_day > cast($utc_day as date) - interval 10 days and utc_day <= $utc_day
)

select
    cost.utc_day,
    cast(cost.paid_usd - coalesce(edges.edge_usd, 0) as decimal(38, 15)) as inside_usd,
    cast(
        case
            when not exists (select 1 from open_days) or (
                seen.to_the_end and unread.counters = 0 and unlisted.unknown_ends = 0
            ) then cost.paid_usd + greatest(coalesce(edges.outside_usd, 0), unlisted.usd)
        end as decimal(38, 15)
    ) as most_usd,
    cast(greatest(served.exact_tokens - surplus.tokens, 0) as bigint) as exact_tokens,
    cast(coalesce(unlogged.tokens, 0) as bigint) as unlogged_tokens,
    cast(
        if(
            served.unbounded_requests + unseen.dark_vms = 0 and not unseen.is_unbounded,
            cost.served_tokens + coalesce(unlogged.tokens, 0),
            null
        ) as bigint
    ) as largest_tokens
from metric.cost_per_mtok as cost
cross join edges
cross join unlisted
cross join seen
cross join unread
cross join served
cross join unseen
cross join surplus
cross join unlogged
where cost.utc_day = $utc_day
