-- One row per UTC day, machine and life of its engine: what vLLM's own token counters moved by between two scrapes, and
-- what the request log has of that machine and time. Tokens, as the engine counts: a prompt once for each choice.
-- From the last scrape at or before the day's first instant to the last one at or before the next day's, so that days
-- add up. Engines of one machine that run at the same time are one row: the log does not tell them apart.
-- docs/method.md, "Token reconciliation".
with scrapes as (
    select
        vm_id,
        coalesce(cast(process_started_at as varchar), upstream) as engine,
        upstream,
        process_started_at,
        observed_at,
        prompt_tokens_total,
        generation_tokens_total
    from validated.engine_counters
    where prompt_tokens_total is not null and generation_tokens_total is not null
),

-- the first segment may be lost: the next one names it, and its name has the instant it was made at
log as (
    select
        least(
            min(started_at),
            min(cast(try_strptime(split_part(previous, '.', 3), '%Y%m%dT%H%M%SZ') as timestamptz))
        ) as began_at
    from validated.log_segments
),

-- a counter begins at zero with its process; of one that is older than the log only what moved since the first scrape
-- is taken
seen as (
    select
        scrapes.vm_id,
        scrapes.engine,
        scrapes.process_started_at,
        min(scrapes.upstream) as upstream,
        coalesce(
            scrapes.process_started_at >= coalesce(min(log.began_at), cast($utc_day as date)), false
        ) as is_from_zero,
        min(scrapes.observed_at) as first_at,
        max(scrapes.observed_at) filter (where scrapes.observed_at <= cast($utc_day as date)) as before_at,
        max(scrapes.observed_at) filter (where scrapes.observed_at <= cast($utc_day as date) + 1) as closed_at,
        min(scrapes.observed_at) filter (where scrapes.observed_at > cast($utc_day as date) + 1) as next_at
    from scrapes
    cross join log
    group by scrapes.vm_id, scrapes.engine, scrapes.process_started_at
),

-- a process that began on the day and was scraped only after it has all it made in the overhang
lives as (
    select
        vm_id,
        engine,
        process_started_at,
        upstream,
        is_from_zero,
        if(is_from_zero, least(process_started_at, first_at), first_at) as watched_from,
        coalesce(before_at, watched_from) as opened_at,
        before_at,
        coalesce(closed_at, watched_from) as closed_at,
        next_at
    from seen
    where
        closed_at > cast($utc_day as date)
        or (next_at is not null and before_at is not null)
        or (
            next_at is not null and is_from_zero
            and process_started_at >= cast($utc_day as date) and process_started_at < cast($utc_day as date) + 1
        )
),

readings as (
    select
        lives.vm_id,
        lives.engine,
        scrapes.observed_at,
        scrapes.prompt_tokens_total as prompt_tokens,
        scrapes.generation_tokens_total as generation_tokens,
        lives.process_started_at is null as is_unnamed,
        lives.is_from_zero and lives.before_at is null as is_from_zero,
        lag(scrapes.prompt_tokens_total) over life as last_prompt_tokens,
        lag(scrapes.generation_tokens_total) over life as last_generation_tokens,
        max(scrapes.prompt_tokens_total) over so_far as most_prompt_tokens,
        max(scrapes.generation_tokens_total) over so_far as most_generation_tokens
    from lives
    inner join scrapes
        on
            lives.vm_id is not distinct from scrapes.vm_id
            and lives.engine = scrapes.engine
            and lives.opened_at <= scrapes.observed_at
            and coalesce(lives.next_at, lives.closed_at) >= scrapes.observed_at
    window
        life as (partition by lives.vm_id, lives.engine order by scrapes.observed_at),
        so_far as (
            partition by lives.vm_id, lives.engine
            order by scrapes.observed_at
            rows between unbounded preceding and 1 preceding
        )
),

-- without a known start of the process a fall is a restart; with one there is none, only scrapes by two clocks
moves as (
    select
        vm_id,
        engine,
        observed_at,
        is_unnamed
        and (prompt_tokens < last_prompt_tokens or generation_tokens < last_generation_tokens) as is_restarted,
        case
            when most_prompt_tokens is null then if(is_from_zero, prompt_tokens, 0)
            when is_restarted then prompt_tokens
            when is_unnamed then prompt_tokens - last_prompt_tokens
            else greatest(prompt_tokens - most_prompt_tokens, 0)
        end as prompt_tokens,
        case
            when most_generation_tokens is null then if(is_from_zero, generation_tokens, 0)
            when is_restarted then generation_tokens
            when is_unnamed then generation_tokens - last_generation_tokens
            else greatest(generation_tokens - most_generation_tokens, 0)
        end as generation_tokens
    from readings
),

moved as (
    select
        vm_id,
        engine,
        count(*) filter (
            where observed_at > cast($utc_day as date) and observed_at <= cast($utc_day as date) + 1
        ) as scrapes,
        sum(prompt_tokens) filter (where observed_at <= cast($utc_day as date) + 1) as prompt_tokens,
        sum(generation_tokens) filter (where observed_at <= cast($utc_day as date) + 1) as generation_tokens,
        sum(prompt_tokens + generation_tokens) filter (
            where observed_at > cast($utc_day as date) + 1
        ) as overhang_tokens
    from moves
    group by vm_id, engine
),

ordered as (
    select
        vm_id,
        engine,
        opened_at,
        coalesce(
            opened_at >= max(closed_at) over (
                partition by vm_id
                order by opened_at, engine
                rows between unbounded preceding and 1 preceding
            ),
            true
        ) as is_alone
    from lives
),

grouped as (
    select
        vm_id,
        engine,
        sum(cast(is_alone as integer)) over (partition by vm_id order by opened_at, engine) as place
    from ordered
),

engines as (
    select
        lives.vm_id,
        grouped.place,
        count(*) as processes,
        max(lives.process_started_at) as process_started_at,
        min(lives.upstream) as upstream,
        min(lives.watched_from) as watched_from,
        min(lives.opened_at) as opened_at,
        max(lives.closed_at) as closed_at,
        max(lives.next_at) as overhang_at,
        coalesce(sum(moved.scrapes), 0) as scrapes,
        coalesce(sum(moved.prompt_tokens), 0) as prompt_tokens,
        coalesce(sum(moved.generation_tokens), 0) as generation_tokens,
        coalesce(sum(moved.overhang_tokens), 0) as overhang_tokens
    from lives
    inner join grouped on lives.vm_id is not distinct from grouped.vm_id and lives.engine = grouped.engine
    left join moved on lives.vm_id is not distinct from moved.vm_id and lives.engine = moved.engine
    group by lives.vm_id, grouped.place
),

-- what a request surely and at most moved the counters by; a request that never reached an engine moved nothing
asked as (
    select
        vm_id,
        started_at,
        finished_at,
        usage_source,
        coalesce(prompt_tokens, 0) as prompt_tokens,
        coalesce(completion_tokens, 0) as completion_tokens,
        coalesce(prompt_tokens, 0) * greatest(coalesce(choices, 1), 1) as most_prompt_tokens,
        case
            when usage_source = 'engine_final' and end_reason = 'complete' then most_prompt_tokens
            when completion_tokens > 0 then coalesce(prompt_tokens, 0)
            else 0
        end as least_prompt_tokens
    from validated.requests
    where
        finished_at > (select min(engines.opened_at) from engines) - interval 5 seconds
        and started_at < cast($utc_day as date) + 1
        and not rollup.is_refused(usage_source, end_reason, upstream_status, vm_id)
),

-- a request that ends within 5 s before a scrape may not be in it yet
matched as (
    select
        engines.vm_id,
        engines.place,
        asked.started_at >= engines.opened_at
        and asked.finished_at <= engines.closed_at - interval 5 seconds as is_inside,
        asked.finished_at > engines.opened_at and asked.finished_at <= engines.closed_at as is_logged,
        asked.usage_source,
        asked.prompt_tokens,
        asked.completion_tokens,
        asked.most_prompt_tokens,
        asked.least_prompt_tokens
    from engines
    inner join asked
        on
            engines.vm_id is not distinct from asked.vm_id
            and engines.opened_at - interval 5 seconds < asked.finished_at
            and engines.closed_at > asked.started_at
),

logged as (
    select
        vm_id,
        place,
        count(*) filter (where is_logged) as requests,
        sum(prompt_tokens) filter (where is_logged) as prompt_tokens,
        sum(completion_tokens) filter (where is_logged) as completion_tokens,
        sum(greatest(least_prompt_tokens - prompt_tokens, 0)) filter (where is_inside) as choices_tokens,
        sum(prompt_tokens) filter (where is_inside and least_prompt_tokens = 0) as aborted_prefill_tokens,
        sum(least_prompt_tokens) filter (where is_inside) as sure_prompt_tokens,
        sum(completion_tokens) filter (where is_inside) as sure_completion_tokens,
        sum(most_prompt_tokens - if(is_inside, least_prompt_tokens, 0)) as possible_prompt_tokens,
        sum(completion_tokens) filter (where not is_inside) as possible_completion_tokens,
        count(*) filter (where usage_source = 'engine_partial') as partial_requests,
        count(*) filter (where usage_source = 'none') as unmeasured_requests,
        count(*) filter (where usage_source = 'engine_final') as exact_requests,
        sum(most_prompt_tokens) filter (where usage_source = 'engine_final') as exact_prompt_tokens,
        sum(completion_tokens) filter (where usage_source = 'engine_final') as exact_completion_tokens
    from matched
    group by vm_id, place
)

select
    cast($utc_day as date) as utc_day,
    engines.vm_id,
    engines.process_started_at,
    engines.processes,
    engines.upstream,
    engines.watched_from,
    engines.opened_at,
    engines.closed_at,
    cast(engines.scrapes as bigint) as scrapes,
    cast(engines.prompt_tokens as bigint) as engine_prompt_tokens,
    cast(engines.generation_tokens as bigint) as engine_generation_tokens,
    engines.overhang_at,
    cast(engines.overhang_tokens as bigint) as overhang_tokens,
    coalesce(logged.requests, 0) as requests,
    cast(coalesce(logged.prompt_tokens, 0) as bigint) as prompt_tokens,
    cast(coalesce(logged.completion_tokens, 0) as bigint) as completion_tokens,
    cast(coalesce(logged.choices_tokens, 0) as bigint) as choices_tokens,
    cast(coalesce(logged.aborted_prefill_tokens, 0) as bigint) as aborted_prefill_tokens,
    cast(coalesce(logged.sure_prompt_tokens, 0) as bigint) as sure_prompt_tokens,
    cast(coalesce(logged.sure_completion_tokens, 0) as bigint) as sure_completion_tokens,
    cast(coalesce(logged.possible_prompt_tokens, 0) as bigint) as possible_prompt_tokens,
    cast(coalesce(logged.possible_completion_tokens, 0) as bigint) as possible_completion_tokens,
    coalesce(logged.partial_requests, 0) as partial_requests,
    coalesce(logged.unmeasured_requests, 0) as unmeasured_requests,
    coalesce(logged.exact_requests, 0) as exact_requests,
    cast(coalesce(logged.exact_prompt_tokens, 0) as bigint) as exact_prompt_tokens,
    cast(coalesce(logged.exact_completion_tokens, 0) as bigint) as exact_completion_tokens
from engines
left join logged on engines.vm_id is not distinct from logged.vm_id and engines.place = logged.place
order by engines.vm_id, engines.opened_at
