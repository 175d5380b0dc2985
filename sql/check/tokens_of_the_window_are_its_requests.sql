-- Windows whose served tokens are not those of the requests that finished in them.
with requests as (
    select cast(coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) as bigint) as served_tokens
    from validated.requests
    where
        finished_at >= cast($utc_day as date) - interval 6 days
        and finished_at < cast($utc_day as date) + interval 1 day
        and not is_canary
)

select
    cost.utc_day,
    cost.served_tokens,
    requests.served_tokens as request_tokens
from metric.cost_per_mtok as cost
cross join requests
where cost.utc_day = $utc_day and cost.served_tokens != requests.served_tokens
