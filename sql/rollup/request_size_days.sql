-- One row per number of prompt tokens that requests of the UTC day have, and one for those whose tokens are unknown.
-- Tokens, counted in the day in which the request finished. Prices depend on a request's size by its prompt tokens
-- alone, so no sum over such a row can cross a tier. Left out: canaries, and requests that never reached an engine or
-- were refused by it. docs/method.md, "The same workload elsewhere".
select
    cast($utc_day as date) as utc_day,
    prompt_tokens,
    count(*) as requests,
    cast(coalesce(sum(completion_tokens), 0) as bigint) as completion_tokens,
    cast(coalesce(sum(cached_tokens), 0) as bigint) as cached_tokens,
    count(cached_tokens) as cached_known_requests
from validated.requests
where
    finished_at >= cast($utc_day as date)
    and finished_at < cast($utc_day as date) + interval 1 day
    and not is_canary
    and not rollup.is_refused(usage_source, end_reason, upstream_status, vm_id)
group by prompt_tokens
order by prompt_tokens
