-- One row per basket for the day D: least, middle and greatest price of its members for our own requests of the seven
-- UTC days that end with D, in USD per million tokens, and what was priced. The median of an even number of members is
-- the middle between two, rounded half to even at 12 decimals. docs/method.md, "The same workload elsewhere".
with places as (
    select
        basket,
        basket_version,
        as_of,
        prices_version,
        usd_per_million_tokens,
        cast(usd_per_million_tokens * 1000000000000 as hugeint) as units,
        2 * row_number() over (partition by basket order by usd_per_million_tokens asc nulls last) as place,
        count(usd_per_million_tokens) over (partition by basket) as priced
    from metric.list_price_comparison
    where utc_day = $utc_day
),

baskets as (
    select
        basket,
        basket_version,
        as_of,
        prices_version,
        count(*) as members,
        count(*) - count(usd_per_million_tokens) as unpriced_members,
        min(usd_per_million_tokens) as min_usd_per_million_tokens,
        sum(
            case when place = priced + 1 then 2 * units when place in (priced, priced + 2) then units end
        ) as doubled_median,
        max(usd_per_million_tokens) as max_usd_per_million_tokens
    from places
    group by basket, basket_version, as_of, prices_version
),

workload as (
    select
        coalesce(sum(requests) filter (where prompt_tokens is not null), 0) as requests,
        coalesce(sum(requests) filter (where prompt_tokens is null), 0) as unpriced_requests,
        coalesce(sum(prompt_tokens * requests), 0) as prompt_tokens,
        coalesce(sum(completion_tokens) filter (where prompt_tokens is not null), 0) as completion_tokens,
        coalesce(sum(cached_tokens) filter (where prompt_tokens is not null), 0) as cached_tokens,
        coalesce(sum(cached_known_requests) filter (where prompt_tokens is not null), 0) as cached_known_requests
    from rollup.request_size_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
)

select
    cast($utc_day as date) as utc_day,
    baskets.basket,
    baskets.basket_version,
    baskets.as_of,
    baskets.prices_version,
    baskets.members,
    baskets.unpriced_members,
    baskets.min_usd_per_million_tokens,
    cast(
        baskets.doubled_median // 2
        + case when baskets.doubled_median % 2 = 1 then (baskets.doubled_median // 2) % 2 else 0 end
        as decimal(38, 0)
    ) * cast(0.000000000001 as decimal(13, 12)) as median_usd_per_million_tokens,
    baskets.max_usd_per_million_tokens,
    cast(workload.requests as bigint) as requests,
    cast(workload.unpriced_requests as bigint) as unpriced_requests,
    cast(workload.prompt_tokens as bigint) as prompt_tokens,
    cast(workload.completion_tokens as bigint) as completion_tokens,
    cast(workload.cached_tokens as bigint) as cached_tokens,
    cast(workload.cached_known_requests as bigint) as cached_known_requests
from baskets
cross join workload
order by baskets.basket
