-- Days on which more than 0.2 % of what vLLM's own counters say is neither in the log nor explained, or on which the
-- log itself tells of lost segments or rows: a warning; rollup.token_residuals has the machines and causes.
with engines as (
    select coalesce(sum(engine_prompt_tokens + engine_generation_tokens), 0) as tokens
    from rollup.engine_days
    where utc_day = $utc_day
),

residuals as (
    select
        coalesce(sum(abs(tokens)), 0) as tokens,
        string_agg(distinct cause, ', ' order by cause) as causes
    from rollup.token_residuals
    where utc_day = $utc_day and cause in ('lost_rows', 'past_the_proxy', 'not_in_the_engine')
)

select
    log.utc_day,
    cast(engines.tokens as bigint) as engine_tokens,
    cast(residuals.tokens as bigint) as unexplained_tokens,
    residuals.causes,
    log.lost_segments,
    log.changed_segments,
    log.rows_missing
from rollup.log_days as log
cross join engines
cross join residuals
where
    log.utc_day = $utc_day
    and (
        500 * residuals.tokens > engines.tokens
        or log.lost_segments + log.changed_segments + log.rows_missing > 0
    )
