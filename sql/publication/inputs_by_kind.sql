-- One row per day and cost_kind, or per token line, of the seven days that end with $utc_day: the published inputs
-- without rates and without names of resources.
select
    utc_day,
    line,
    cast(null as varchar) as resource_type,
    cast(null as bigint) as resource_id,
    cost_kind,
    cast(sum(cost_usd) as decimal(38, 15)) as cost_usd,
    model,
    usage_source,
    cast(sum(requests) as bigint) as requests,
    cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens,
    cast(sum(cached_tokens) as bigint) as cached_tokens,
    cast(sum(reasoning_tokens) as bigint) as reasoning_tokens
from metric.inputs
where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
group by utc_day, line, cost_kind, model, usage_source
order by utc_day, line, cost_kind, model, usage_source
