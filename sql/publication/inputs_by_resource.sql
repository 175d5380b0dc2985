-- One row per cost line or token line of the seven days that end with $utc_day: the published inputs, each resource
-- apart. Only where the contract with the provider allows rates to be worked out.
select
    utc_day,
    line,
    resource_type,
    resource_id,
    cost_kind,
    cost_usd,
    model,
    usage_source,
    requests,
    prompt_tokens,
    completion_tokens,
    cached_tokens,
    reasoning_tokens
from metric.inputs
where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
order by utc_day, line, resource_type, resource_id, cost_kind, model, usage_source
