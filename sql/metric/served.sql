-- What was served in the seven UTC days that end with $utc_day: the denominator of the number. Only tokens that vLLM
-- itself reported; prompt tokens include cached ones, completion tokens include reasoning. A request counts in the day
-- in which it finished. Requests whose usage never came are in requests, not in tokens.
select
    cast($utc_day as date) as utc_day,
    cast(coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) as bigint) as served_tokens,
    cast(coalesce(sum(requests), 0) as bigint) as requests,
    cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens,
    cast(sum(cached_tokens) as bigint) as cached_tokens,
    cast(sum(reasoning_tokens) as bigint) as reasoning_tokens
from metric.inputs
where
    line = 'tokens'
    and utc_day > cast($utc_day as date) - interval 7 days
    and utc_day <= $utc_day
