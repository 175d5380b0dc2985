-- One row per answered model and usage_source of the UTC day. Tokens, counted in the day in which the request finished.
-- Left out: canaries, whose cost stays in paid. Unknown stays null: rows without usage add requests, never tokens.
-- docs/method.md, "Served".
select
    cast($utc_day as date) as utc_day,
    model,
    usage_source,
    count(*) as requests,
    count(*) filter (
        where rollup.is_refused(usage_source, end_reason, upstream_status, vm_id)
    ) as refused_requests,
    cast(sum(prompt_tokens) as bigint) as prompt_tokens,
    cast(sum(completion_tokens) as bigint) as completion_tokens,
    cast(sum(cached_tokens) as bigint) as cached_tokens,
    cast(sum(prompt_tokens) filter (where cached_tokens is not null) as bigint) as cached_known_prompt_tokens,
    cast(sum(reasoning_tokens) as bigint) as reasoning_tokens,
    cast(
        sum(completion_tokens) filter (where reasoning_tokens is not null) as bigint
    ) as reasoning_known_completion_tokens
from validated.requests
where
    finished_at >= cast($utc_day as date)
    and finished_at < cast($utc_day as date) + interval 1 day
    and not is_canary
group by model, usage_source
order by model, usage_source
