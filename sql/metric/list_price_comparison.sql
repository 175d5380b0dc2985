-- One row per basket and member for the day D: what our own requests of the seven UTC days that end with D would have
-- cost at the member's list prices, in USD and in USD per million tokens. Each request is priced by its size; cached
-- tokens at the price of a cache read where there is one; reasoning is output. The copy of prices is that of D, else
-- the newest before it, else the first one of the seven days after it. Integers until the last step: prices count 1e-9
-- USD per million tokens, so a token costs whole 1e-15 USD; the quotient is rounded half to even at 12 decimals. Null
-- where there is no price, or no request with known tokens. docs/method.md, "The same workload elsewhere".
with copies as (
    select
        coalesce(
            max(utc_day) filter (where utc_day <= $utc_day),
            min(utc_day) filter (where utc_day > $utc_day and utc_day <= cast($utc_day as date) + interval 7 days)
        ) as as_of
    from validated.list_prices
),

tiers as (
    select
        prices.basket,
        prices.basket_version,
        copies.as_of,
        prices.prices_version,
        prices.provider,
        prices.model,
        prices.model_name,
        prices.unpriced_reason,
        prices.from_prompt_tokens,
        lead(prices.from_prompt_tokens) over member_tiers as below_prompt_tokens,
        cast(prices.input_usd_per_million * 1000000000 as hugeint) as prompt_rate,
        cast(
            coalesce(prices.cached_input_usd_per_million, prices.input_usd_per_million) * 1000000000 as hugeint
        ) as cached_rate,
        cast(prices.output_usd_per_million * 1000000000 as hugeint) as completion_rate
    from validated.list_prices as prices
    inner join copies on prices.utc_day = copies.as_of
    window
        member_tiers as (
            partition by prices.basket, prices.provider, prices.model order by prices.from_prompt_tokens
        )
),

sizes as (
    select
        prompt_tokens as size,
        sum(prompt_tokens * requests) as prompt_tokens,
        sum(completion_tokens) as completion_tokens,
        sum(cached_tokens) as cached_tokens
    from rollup.request_size_days
    where
        utc_day > cast($utc_day as date) - interval 7 days
        and utc_day <= $utc_day
        and prompt_tokens is not null
    group by prompt_tokens
),

tokens as (
    select nullif(sum(prompt_tokens) + sum(completion_tokens), 0) as divisor
    from sizes
),

amounts as (
    select
        tiers.basket,
        tiers.provider,
        tiers.model,
        sum(
            (sizes.prompt_tokens - sizes.cached_tokens) * tiers.prompt_rate
            + sizes.cached_tokens * tiers.cached_rate
            + sizes.completion_tokens * tiers.completion_rate
        ) as amount
    from tiers
    inner join sizes
        on
            tiers.from_prompt_tokens <= sizes.size
            and coalesce(tiers.below_prompt_tokens, 9223372036854775807) > sizes.size
    where tiers.unpriced_reason is null
    group by tiers.basket, tiers.provider, tiers.model
),

quotients as (
    select
        amounts.basket,
        amounts.provider,
        amounts.model,
        amounts.amount,
        tokens.divisor,
        (1000 * amounts.amount) // tokens.divisor as quotient,
        (1000 * amounts.amount) % tokens.divisor as remainder
    from amounts
    cross join tokens
),

priced as (
    select
        basket,
        provider,
        model,
        cast(amount as decimal(38, 0)) * cast(0.000000000000001 as decimal(16, 15)) as workload_usd,
        cast(
            quotient + case
                when 2 * remainder > divisor then 1
                when 2 * remainder = divisor and quotient % 2 != 0 then 1
                else 0
            end as decimal(38, 0)
        ) * cast(0.000000000001 as decimal(13, 12)) as usd_per_million_tokens
    from quotients
    where divisor is not null
)

select
    cast($utc_day as date) as utc_day,
    tiers.basket,
    tiers.basket_version,
    tiers.as_of,
    tiers.prices_version,
    tiers.provider,
    tiers.model,
    tiers.model_name,
    priced.workload_usd,
    priced.usd_per_million_tokens,
    priced.usd_per_million_tokens is not null
    and row_number() over (
        partition by tiers.basket
        order by priced.usd_per_million_tokens asc nulls last, tiers.provider asc, tiers.model asc
    ) = 1 as is_cheapest,
    tiers.unpriced_reason
from tiers
left join priced
    on tiers.basket = priced.basket and tiers.provider = priced.provider and tiers.model = priced.model
where tiers.from_prompt_tokens = 0
order by tiers.basket asc, priced.usd_per_million_tokens asc nulls last, tiers.provider asc, tiers.model asc
