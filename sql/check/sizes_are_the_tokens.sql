-- Days whose requests by size do not have the tokens that were served: another workload would be priced elsewhere.
with sizes as (
    select
        cast(coalesce(sum(prompt_tokens * requests), 0) as bigint) as prompt_tokens,
        cast(coalesce(sum(completion_tokens), 0) as bigint) as completion_tokens
    from rollup.request_size_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
)

select
    cost.utc_day,
    coalesce(cost.prompt_tokens, 0) as prompt_tokens,
    sizes.prompt_tokens as sized_prompt_tokens,
    coalesce(cost.completion_tokens, 0) as completion_tokens,
    sizes.completion_tokens as sized_completion_tokens
from metric.cost_per_mtok as cost
cross join sizes
where
    cost.utc_day = $utc_day
    and (
        coalesce(cost.prompt_tokens, 0) != sizes.prompt_tokens
        or coalesce(cost.completion_tokens, 0) != sizes.completion_tokens
    )
