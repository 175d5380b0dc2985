-- One row per machine and answered model of the UTC day: requests and tokens, counted in the day in which the request
-- finished. The same requests as rollup.token_days; a request whose machine is not known has vm_id null.
-- Left out: canaries. docs/method.md, "Costs by machine and by model".
select
    cast($utc_day as date) as utc_day,
    vm_id,
    model,
    count(*) as requests,
    cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens
from validated.requests
where
    finished_at >= cast($utc_day as date)
    and finished_at < cast($utc_day as date) + interval 1 day
    and not is_canary
group by vm_id, model
order by vm_id, model
