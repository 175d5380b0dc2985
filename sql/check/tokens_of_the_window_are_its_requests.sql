-- Windows whose served tokens are not those of the requests that finished on their days, as far as these are built.
with requests as (
    select
        cast(
            coalesce(sum(requests.prompt_tokens), 0) + coalesce(sum(requests.completion_tokens), 0) as bigint
        ) as served_tokens
    from validated.requests as requests
    -- a day that was never built adds neither dollars nor tokens, and no minute to the coverage
    inner join rollup.snapshot_days as days on cast(requests.finished_at as date) = days.utc_day
    where
        requests.finished_at >= cast($utc_day as date) - interval 6 days
        and requests.finished_at < cast($utc_day as date) + interval 1 day
        and not requests.is_canary
)

select
    cost.utc_day,
    cost.served_tokens,
    requests.served_tokens as request_tokens
from metric.cost_per_mtok as cost
cross join requests
where cost.utc_day = $utc_day and cost.served_tokens != requests.served_tokens
