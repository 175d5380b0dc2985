-- One row per machine of the seven UTC days that end with the day D, and one with vm_id null for all that belongs to no
-- machine: what it cost, what it served, and its own USD per million tokens, half to even at 12 decimals. Costs add up
-- to what was paid exactly. A machine's cost is all its lines: busy, idle, cold start, parked, its IP, its credits.
-- USD per million is null where nothing was served, and of what belongs to no machine.
-- docs/method.md, "Costs by machine and by model".
with costs as (
    select
        case when resource_type = 'vm' then resource_id end as vm_id,
        sum(cost_usd) as cost_usd
    from metric.inputs
    where line = 'cost' and utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by case when resource_type = 'vm' then resource_id end
),

served as (
    select
        vm_id,
        sum(requests) as requests,
        coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) as served_tokens
    from rollup.vm_token_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by vm_id
),

times as (
    select
        vm_id,
        sum(active_seconds) as active_seconds,
        sum(busy_seconds) as busy_seconds
    from rollup.vm_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by vm_id
),

machines as (
    select vm_id from costs
    union
    select vm_id from served
    union
    select vm_id from times
)

select
    cast($utc_day as date) as utc_day,
    machines.vm_id,
    cast(coalesce(costs.cost_usd, 0) as decimal(38, 15)) as cost_usd,
    cast(coalesce(served.requests, 0) as bigint) as requests,
    cast(coalesce(served.served_tokens, 0) as bigint) as served_tokens,
    cast(
        case
            when machines.vm_id is not null
                then metric.usd_per_million(coalesce(costs.cost_usd, 0), served.served_tokens)
        end as decimal(38, 12)
    ) as usd_per_million_tokens,
    cast(times.active_seconds as decimal(18, 6)) as active_seconds,
    cast(times.busy_seconds as decimal(18, 6)) as busy_seconds
from machines
left join costs on machines.vm_id is not distinct from costs.vm_id
left join served on machines.vm_id is not distinct from served.vm_id
left join times on machines.vm_id is not distinct from times.vm_id
order by machines.vm_id
