-- One row per UTC day, machine, life of its engine and cause: why vLLM's counters and the log differ. Tokens; the rows
-- of a life add up to its engine tokens minus its logged tokens exactly. Causes that are 0 have no row. in_flight is
-- bounded by the requests at the two scrapes, no_usage by 1.25 times the mean of the life's requests with final usage:
-- what they cannot explain is lost_rows where the log tells of losses, else past_the_proxy; below 0 it is
-- not_in_the_engine.
-- Prompts and completions are explained apart, so that one's lack does not hide the other's surplus.
-- docs/method.md, "Token reconciliation".
with rests as (
    select
        utc_day,
        vm_id,
        process_started_at,
        opened_at,
        engine_prompt_tokens + engine_generation_tokens - prompt_tokens - completion_tokens as residual_tokens,
        choices_tokens,
        aborted_prefill_tokens,
        engine_prompt_tokens - sure_prompt_tokens as prompt_rest,
        engine_generation_tokens - sure_completion_tokens as completion_rest,
        possible_prompt_tokens,
        possible_completion_tokens,
        coalesce(
            metric.floor_quotient(5 * unmeasured_requests * exact_prompt_tokens, 4 * exact_requests), 0
        ) as likely_unmeasured_prompt,
        coalesce(
            metric.floor_quotient(
                5 * (unmeasured_requests + partial_requests) * exact_completion_tokens, 4 * exact_requests
            ),
            0
        ) as likely_unmeasured_completion
    from rollup.engine_days
    where utc_day = $utc_day
),

beyond as (
    select
        utc_day,
        vm_id,
        process_started_at,
        opened_at,
        residual_tokens,
        choices_tokens,
        aborted_prefill_tokens,
        likely_unmeasured_prompt,
        likely_unmeasured_completion,
        prompt_rest - least(greatest(prompt_rest, 0), possible_prompt_tokens) as prompt_beyond,
        completion_rest - least(greatest(completion_rest, 0), possible_completion_tokens) as completion_beyond
    from rests
),

explained as (
    select
        utc_day,
        vm_id,
        process_started_at,
        opened_at,
        residual_tokens,
        choices_tokens,
        aborted_prefill_tokens,
        least(greatest(prompt_beyond, 0), likely_unmeasured_prompt)
        + least(greatest(completion_beyond, 0), likely_unmeasured_completion) as no_usage_tokens,
        greatest(prompt_beyond, 0) + greatest(completion_beyond, 0) - no_usage_tokens as missing_tokens,
        least(prompt_beyond, 0) + least(completion_beyond, 0) as surplus_tokens
    from beyond
),

losses as (
    select lost_segments + changed_segments + rows_missing > 0 as has_lost_rows
    from rollup.log_days
    where utc_day = $utc_day
),

causes as (
    select
        explained.utc_day,
        explained.vm_id,
        explained.process_started_at,
        explained.opened_at,
        unnest([
            'choices',
            'aborted_prefill',
            'in_flight',
            'no_usage',
            if(coalesce(losses.has_lost_rows, false), 'lost_rows', 'past_the_proxy'),
            'not_in_the_engine'
        ]) as cause,
        unnest([
            explained.choices_tokens,
            -explained.aborted_prefill_tokens,
            explained.residual_tokens - explained.choices_tokens + explained.aborted_prefill_tokens
            - explained.no_usage_tokens - explained.missing_tokens - explained.surplus_tokens,
            explained.no_usage_tokens,
            explained.missing_tokens,
            explained.surplus_tokens
        ]) as tokens
    from explained
    left join losses on true
)

select
    utc_day,
    vm_id,
    process_started_at,
    opened_at,
    cause,
    cast(tokens as bigint) as tokens
from causes
where tokens != 0
order by vm_id, opened_at, cause
