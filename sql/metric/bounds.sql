-- One row for the day D: the sums between which the true figure of its window lies. USD and tokens. Spend is unsure
-- only where a counter's movement straddles an end of what counters priced: an end of the window, or of a stretch of
-- days with books inside it. Tokens are at least those with final usage, less what the log has beyond the engines; at
-- most those logged and all that vLLM's counters hold and no row of the log accounts for, of the three days before the
-- window too, for requests that run into it: no bound where rows are lost and not all that is there was witnessed.
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

last_seen as (
    select
        resource_type,
        resource_id,
        max(observed_at) as read_at,
        max_by(is_active, observed_at) as is_active
    from validated.billing_snapshots
    group by resource_type, resource_id, created_at
),

-- counters that were still running when they were last read, and that was before the window's end
unread as (
    select count(*) as counters
    from last_seen
    where
        is_active
        and read_at < cast($utc_day as date) + 1
        and read_at >= (select max(newest.read_at) from last_seen as newest)
        and cast($utc_day as date) not in (select booked.utc_day from booked)
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
        if(unread.counters = 0, cost.paid_usd + coalesce(edges.outside_usd, 0), null) as decimal(38, 15)
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
cross join unread
cross join served
cross join unseen
cross join surplus
cross join unlogged
where cost.utc_day = $utc_day
