-- One row for the day D: how far the request log and vLLM's own counters have the same tokens, over the seven UTC days
-- that end with D and on D alone. Tokens as the engine counts, canaries included. What no row of the log holds is not
-- in the log, whether a cause is known or not; choices, aborted prefills and requests in flight are no difference.
-- A log that has more than the engines made lowers the coverage as well. Null where neither has any.
-- docs/method.md, "Token reconciliation".
with engines as (
    select
        count(*) as lives,
        coalesce(sum(engine_prompt_tokens + engine_generation_tokens), 0) as tokens,
        coalesce(
            sum(engine_prompt_tokens + engine_generation_tokens) filter (where utc_day = $utc_day), 0
        ) as day_tokens
    from rollup.engine_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
),

residuals as (
    select
        coalesce(sum(abs(tokens)) filter (where cause != 'no_usage'), 0) as unexplained,
        coalesce(sum(tokens) filter (where tokens > 0), 0) as missing,
        coalesce(sum(-tokens) filter (where tokens < 0), 0) as surplus,
        coalesce(sum(abs(tokens)) filter (where cause != 'no_usage' and utc_day = $utc_day), 0) as day_unexplained
    from rollup.token_residuals
    where
        utc_day > cast($utc_day as date) - interval 7 days
        and utc_day <= $utc_day
        and cause in ('no_usage', 'lost_rows', 'past_the_proxy', 'not_in_the_engine')
),

log as (
    select
        sum(witnessed_tokens) as witnessed,
        sum(witnessed_tokens + unwitnessed_tokens) as logged,
        coalesce(sum(lost_segments), 0) as lost_segments,
        coalesce(sum(rows_missing), 0) as rows_missing
    from rollup.log_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
)

select
    cast($utc_day as date) as utc_day,
    engines.lives as engine_lives,
    cast(engines.tokens as bigint) as engine_tokens,
    cast(residuals.unexplained as bigint) as unexplained_tokens,
    cast(
        metric.ratio(engines.tokens - residuals.missing, engines.tokens + residuals.surplus) as decimal(18, 6)
    ) as token_coverage_ratio,
    cast(metric.ratio(log.witnessed, log.logged) as decimal(18, 6)) as witnessed_ratio,
    cast(engines.day_tokens as bigint) as day_engine_tokens,
    cast(residuals.day_unexplained as bigint) as day_unexplained_tokens,
    cast(metric.ratio(residuals.day_unexplained, engines.day_tokens) as decimal(18, 6)) as day_unexplained_ratio,
    cast(log.lost_segments as bigint) as lost_segments,
    cast(log.rows_missing as bigint) as rows_missing
from engines
cross join residuals
cross join log
