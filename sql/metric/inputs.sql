-- One row per cost line or token line of the UTC day: all that paid.sql and served.sql read. USD, tokens.
-- docs/method.md, "Inputs".
select
    utc_day,
    'cost' as line,
    resource_type,
    resource_id,
    cost_kind,
    cost_usd,
    null as model,
    null as usage_source,
    null as requests,
    null as prompt_tokens,
    null as completion_tokens,
    null as cached_tokens,
    null as reasoning_tokens
from rollup.cost_days
where utc_day = $utc_day

union all

select
    utc_day,
    'tokens' as line,
    null as resource_type,
    null as resource_id,
    null as cost_kind,
    null as cost_usd,
    model,
    usage_source,
    requests,
    prompt_tokens,
    completion_tokens,
    cached_tokens,
    reasoning_tokens
from rollup.token_days
where utc_day = $utc_day
order by line, resource_type, resource_id, cost_kind, model, usage_source
