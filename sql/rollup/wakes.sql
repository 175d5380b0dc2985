-- One row per wake of a VM that has a cold start, keyed by the day in which it began: what it cost and how long it took
-- until the engine was ready, summed over its days, and what was served until the next wake. USD, seconds, tokens.
-- A view: when it is parked and what it serves is told by any later day. Left out: canaries. docs/method.md, "Wakes".
with wakes as (
    select
        cast(started_at at time zone 'UTC' as date) as utc_day,
        vm_id,
        started_at,
        max_by(found_by, utc_day) as found_by,
        max(ready_at) as ready_at,
        max(ready_by) as ready_by,
        max_by(is_failed, utc_day) as is_failed,
        cast(sum(cold_seconds) as decimal(18, 6)) as cold_seconds,
        cast(sum(cost_usd) as decimal(38, 15)) as cost_usd,
        coalesce(
            lead(started_at) over (partition by vm_id order by started_at), timestamptz '9999-12-31 00:00:00Z'
        ) as next_started_at
    from rollup.wake_days
    group by vm_id, started_at
),

parked as (
    select
        wakes.vm_id,
        wakes.started_at,
        min(parks.parked_at) as parked_at
    from wakes
    inner join rollup.parks
        on
            wakes.vm_id = parks.vm_id
            and wakes.started_at < parks.parked_at
            and wakes.next_started_at >= parks.parked_at
    group by wakes.vm_id, wakes.started_at
),

served as (
    select
        wakes.vm_id,
        wakes.started_at,
        count(*) as requests,
        cast(sum(requests.prompt_tokens) as bigint) as prompt_tokens,
        cast(sum(requests.completion_tokens) as bigint) as completion_tokens
    from wakes
    inner join validated.requests
        on
            wakes.vm_id = requests.vm_id
            and wakes.started_at <= requests.finished_at
            and wakes.next_started_at > requests.finished_at
    where not requests.is_canary
    group by wakes.vm_id, wakes.started_at
)

select
    wakes.utc_day,
    wakes.vm_id,
    wakes.started_at,
    wakes.found_by,
    wakes.ready_at,
    wakes.ready_by,
    wakes.is_failed,
    wakes.cold_seconds,
    wakes.cost_usd,
    parked.parked_at,
    coalesce(served.requests, 0) as requests,
    case
        when served.requests is null then 0
        when coalesce(served.prompt_tokens, served.completion_tokens) is not null
            then coalesce(served.prompt_tokens, 0) + coalesce(served.completion_tokens, 0)
    end as served_tokens
from wakes
left join parked on wakes.vm_id = parked.vm_id and wakes.started_at = parked.started_at
left join served on wakes.vm_id = served.vm_id and wakes.started_at = served.started_at
order by wakes.started_at, wakes.vm_id
