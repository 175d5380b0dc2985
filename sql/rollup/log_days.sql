-- One row for the UTC day: what the request log tells of its own losses, and what vLLM's counters cannot bound.
-- A segment is lost where the next one names it and nobody has read it. A writer that falls silent before the day's end
-- leaves a hole as well; one that has been so for a week while another goes on is taken for retired. An engine is in
-- the dark in a hole unless its counters were scraped on both sides of it, or began inside it, or its machine was off.
-- A writer's silence has its other side where another writer scrapes on.
-- docs/method.md, "Token reconciliation".
with chain as (
    select
        segments.writer,
        segments.started_at,
        max(segments.ended_at) as ended_at,
        min(segments.rows_missing) as rows_missing,
        any_value(segments.previous) as previous,
        bool_or(segments.previous is not null and files.source_file is null) as is_broken,
        bool_or(files.sha256 != segments.previous_sha256) as is_changed
    from validated.log_segments as segments
    left join validated.ingested_files as files
        on 'request_log/' || segments.previous || '.jsonl' = files.source_file
    group by segments.writer, segments.started_at
),

-- a lost segment may have begun where the last one before it ended, and says itself when it was made
links as (
    select
        writer,
        started_at,
        ended_at,
        rows_missing,
        is_broken,
        coalesce(is_changed, false) as is_changed,
        least(
            max(ended_at) over (
                partition by writer
                order by started_at
                rows between unbounded preceding and 1 preceding
            ),
            cast(try_strptime(split_part(previous, '.', 3), '%Y%m%dT%H%M%SZ') as timestamptz)
        ) as last_ended_at
    from chain
),

holes as (
    select
        coalesce(last_ended_at, started_at) as start_at,
        started_at as end_at,
        false as is_silence
    from links
    where
        is_broken
        and started_at >= cast($utc_day as date)
        and coalesce(last_ended_at, started_at) < cast($utc_day as date) + 1

    union all

    select
        max(ended_at) as start_at,
        cast(cast($utc_day as date) + 1 as timestamptz) as end_at,
        true as is_silence
    from links
    group by writer
    having
        max(ended_at) < cast($utc_day as date) + 1 - interval 2 minutes
        and max(ended_at) >= least(
            (select max(newest.ended_at) from links as newest), cast(cast($utc_day as date) + 1 as timestamptz)
        ) - interval 7 days
),

machines as (
    select distinct vm_id
    from validated.engine_counters
    where vm_id is not null

    union

    select distinct vm_id
    from validated.requests
    where
        vm_id is not null
        and finished_at >= cast($utc_day as date)
        and finished_at < cast($utc_day as date) + 1
),

scrapes as (
    select
        holes.start_at,
        holes.end_at,
        counters.vm_id,
        counters.observed_at,
        counters.process_started_at,
        counters.prompt_tokens_total as tokens,
        (counters.upstream, counters.process_started_at) as engine,
        counters.observed_at <= holes.start_at as is_before,
        if(
            holes.is_silence, counters.observed_at > holes.start_at, counters.observed_at >= holes.end_at
        ) as is_after
    from holes
    cross join validated.engine_counters as counters
),

scraped as (
    select
        holes.start_at,
        holes.end_at,
        machines.vm_id,
        max(scrapes.observed_at) filter (where scrapes.is_before) as last_at,
        max_by(scrapes.engine, scrapes.observed_at) filter (where scrapes.is_before) as last_engine,
        max_by(scrapes.tokens, scrapes.observed_at) filter (where scrapes.is_before) as last_tokens,
        min_by(scrapes.engine, scrapes.observed_at) filter (where scrapes.is_after) as next_engine,
        min_by(scrapes.tokens, scrapes.observed_at) filter (where scrapes.is_after) as next_tokens,
        min_by(scrapes.process_started_at, scrapes.observed_at) filter (where scrapes.is_after) as next_started_at
    from holes
    cross join machines
    left join scrapes
        on
            machines.vm_id = scrapes.vm_id
            and holes.start_at = scrapes.start_at
            and holes.end_at = scrapes.end_at
    group by holes.start_at, holes.end_at, machines.vm_id
),

powered as (
    select
        scraped.start_at,
        scraped.end_at,
        scraped.vm_id,
        coalesce(bool_or(
            states.observed_at > scraped.start_at
            and states.observed_at < scraped.end_at
            and states.vm_status = 'ACTIVE'
        ), false)
        or coalesce(
            max_by(states.vm_status, states.observed_at) filter (where states.observed_at <= scraped.start_at),
            'ACTIVE'
        ) = 'ACTIVE' as is_active
    from scraped
    left join validated.vm_states as states
        on scraped.vm_id = states.vm_id and states.vm_status is not null
    group by scraped.start_at, scraped.end_at, scraped.vm_id
),

dark as (
    select count(distinct scraped.vm_id) as dark_vms
    from scraped
    inner join powered
        on
            scraped.start_at = powered.start_at
            and scraped.end_at = powered.end_at
            and scraped.vm_id = powered.vm_id
    where
        powered.is_active
        and not coalesce(
            (scraped.last_engine = scraped.next_engine and scraped.last_tokens <= scraped.next_tokens)
            or (
                scraped.next_started_at >= scraped.start_at
                and scraped.next_started_at < scraped.end_at
                and coalesce(scraped.last_at < scraped.start_at - interval 3 minutes, true)
            ),
            false
        )
),

finished as (
    select
        requests.vm_id,
        coalesce(requests.prompt_tokens, 0) + coalesce(requests.completion_tokens, 0) as tokens,
        requests.usage_source != 'engine_final' as is_unmeasured,
        exists(
            select 1
            from rollup.engine_days as engines
            where
                engines.utc_day = $utc_day
                and engines.vm_id is not distinct from requests.vm_id
                and engines.watched_from <= requests.started_at
                and coalesce(engines.overhang_at, engines.closed_at) >= requests.finished_at
        ) as is_witnessed
    from validated.requests as requests
    where
        requests.finished_at >= cast($utc_day as date)
        and requests.finished_at < cast($utc_day as date) + 1
        and not rollup.is_refused(
            requests.usage_source, requests.end_reason, requests.upstream_status, requests.vm_id
        )
),

witnessed as (
    select
        coalesce(sum(tokens) filter (where is_witnessed), 0) as witnessed_tokens,
        coalesce(sum(tokens) filter (where not is_witnessed), 0) as unwitnessed_tokens,
        count(*) filter (where is_unmeasured and not is_witnessed) as unbounded_requests
    from finished
),

-- lines that cannot be true are as good as missing; of one that says something else than an earlier one, that one is
-- there
refused as (
    select distinct
        segments.writer,
        segments.started_at,
        quarantine.source_line
    from validated.quarantine as quarantine
    inner join validated.log_segments as segments on quarantine.source_file = segments.source_file
    where
        segments.started_at >= cast($utc_day as date)
        and segments.started_at < cast($utc_day as date) + 1
        and quarantine.position = 'row'
        and quarantine.target_table in (
            'validated.requests', 'validated.request_begins', 'validated.request_usages'
        )
        and quarantine.reason not like 'conflict: %'
),

segments as (
    select
        count(*) as segments,
        count(*) filter (where is_changed) as changed_segments,
        coalesce(sum(rows_missing), 0) as rows_missing
    from links
    where started_at >= cast($utc_day as date) and started_at < cast($utc_day as date) + 1
),

lost as (
    select count(*) as lost_segments
    from links
    where
        is_broken
        and started_at >= cast($utc_day as date)
        and coalesce(last_ended_at, started_at) < cast($utc_day as date) + 1
),

unended as (
    select count(*) as unended_requests
    from validated.request_begins as begins
    where
        begins.started_at >= cast($utc_day as date)
        and begins.started_at < cast($utc_day as date) + 1
        and not exists (
            select 1 from validated.requests as ended
            where ended.request_id = begins.request_id
        )
)

select
    cast($utc_day as date) as utc_day,
    segments.segments,
    lost.lost_segments,
    segments.changed_segments,
    cast(segments.rows_missing + (select count(*) from refused) as bigint) as rows_missing,
    unended.unended_requests,
    dark.dark_vms,
    cast(witnessed.witnessed_tokens as bigint) as witnessed_tokens,
    cast(witnessed.unwitnessed_tokens as bigint) as unwitnessed_tokens,
    witnessed.unbounded_requests
from segments
cross join lost
cross join unended
cross join dark
cross join witnessed
