-- One row per answered model of the seven UTC days that end with the day D, and one with model null for all of them:
-- percentiles by nearest rank, that is the value at place ceil(p * n) in order, a value that some request really had.
-- Microseconds; ratios at 6 decimals, half to even. A request counts in the day in which it finished.
-- Latency is of complete answers, time to first token of streams, the ratio of requests whose tokens are known.
-- Left out: canaries, and requests that were refused. docs/method.md, "Percentiles".
with answered as (
    select
        coalesce(model, 'unknown') as model,
        case
            when end_reason = 'complete' then epoch_us(finished_at) - epoch_us(started_at)
        end as latency,
        case
            when is_stream then epoch_us(first_byte_at) - epoch_us(started_at)
        end as first_token,
        metric.quotient(1000000 * completion_tokens, nullif(prompt_tokens, 0)) as millionths
    from validated.requests
    where
        finished_at >= cast($utc_day as date) - interval 6 days
        and finished_at < cast($utc_day as date) + interval 1 day
        and not is_canary
        and not rollup.is_refused(usage_source, end_reason, upstream_status, vm_id)
),

ranked as (
    select
        model,
        count(latency) as latencies,
        quantile_disc(latency, [0.5, 0.9, 0.99]) as latency,
        count(first_token) as first_tokens,
        quantile_disc(first_token, [0.5, 0.9, 0.99]) as first_token,
        count(millionths) as ratios,
        quantile_disc(millionths, [0.1, 0.5, 0.9]) as millionths
    from answered
    group by grouping sets ((), (model))
)

select
    cast($utc_day as date) as utc_day,
    model,
    latencies as latency_requests,
    latency[1] as latency_p50_microseconds,
    latency[2] as latency_p90_microseconds,
    latency[3] as latency_p99_microseconds,
    first_tokens as first_token_requests,
    first_token[1] as first_token_p50_microseconds,
    first_token[2] as first_token_p90_microseconds,
    first_token[3] as first_token_p99_microseconds,
    ratios as output_input_requests,
    cast(millionths[1] * 0.000001 as decimal(18, 6)) as output_input_p10_ratio,
    cast(millionths[2] * 0.000001 as decimal(18, 6)) as output_input_p50_ratio,
    cast(millionths[3] * 0.000001 as decimal(18, 6)) as output_input_p90_ratio
from ranked
order by model nulls first
