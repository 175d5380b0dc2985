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
        and upstream_status < 400
)

select
    cast($utc_day as date) as utc_day,
    model,
    count(latency) as latency_requests,
    quantile_disc(latency, 0.5) as latency_p50_microseconds,
    quantile_disc(latency, 0.9) as latency_p90_microseconds,
    quantile_disc(latency, 0.99) as latency_p99_microseconds,
    count(first_token) as first_token_requests,
    quantile_disc(first_token, 0.5) as first_token_p50_microseconds,
    quantile_disc(first_token, 0.9) as first_token_p90_microseconds,
    quantile_disc(first_token, 0.99) as first_token_p99_microseconds,
    count(millionths) as output_input_requests,
    cast(quantile_disc(millionths, 0.1) * 0.000001 as decimal(18, 6)) as output_input_p10_ratio,
    cast(quantile_disc(millionths, 0.5) * 0.000001 as decimal(18, 6)) as output_input_p50_ratio,
    cast(quantile_disc(millionths, 0.9) * 0.000001 as decimal(18, 6)) as output_input_p90_ratio
from answered
group by grouping sets ((), (model))
order by model nulls first
