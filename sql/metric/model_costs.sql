-- One row per model of the seven UTC days that end with the day D: what it served, and what it cost. A model costs what
-- the machines cost that serve it (validated.served_models, as SPOTINFERENCE_MODELS says), and its share of the rest.
--   A machine of several models is divided by the tokens that they served on it, evenly where they served none.
--   The rest, all else on the account, is divided by what the models' machines cost, in whole micro-dollars, evenly
--   where that is nothing.
-- Both are cut in the order of the models' names, each cut rounded down at 1e-15 USD, so that costs add up to what was
-- paid exactly. USD per million at 12 decimals, half to even. Without that setting no model has a cost, and a model
-- that it does not name never has one: null, not the blended figure. docs/method.md, "Costs by machine and by model".
with served as (
    select
        coalesce(model, 'unknown') as model,
        sum(requests) as requests,
        coalesce(sum(prompt_tokens), 0) + coalesce(sum(completion_tokens), 0) as served_tokens
    from rollup.token_days
    where utc_day > cast($utc_day as date) - interval 7 days and utc_day <= $utc_day
    group by coalesce(model, 'unknown')
),

machines as (
    select
        served_models.model,
        served_models.vm_id,
        cast(coalesce(any_value(vm_costs.cost_usd), 0) * 1000000000000000 as hugeint) as femtos,
        coalesce(sum(tokens.prompt_tokens), 0) + coalesce(sum(tokens.completion_tokens), 0) as tokens
    from validated.served_models
    left join metric.vm_costs on served_models.vm_id = vm_costs.vm_id and vm_costs.utc_day = $utc_day
    left join rollup.vm_token_days as tokens
        on
            served_models.vm_id = tokens.vm_id
            and served_models.model = tokens.model
            and tokens.utc_day > cast($utc_day as date) - interval 7 days
            and tokens.utc_day <= $utc_day
    group by served_models.model, served_models.vm_id
),

weighed as (
    select
        model,
        vm_id,
        femtos,
        if(sum(tokens) over (partition by vm_id) = 0, 1, tokens) as weight
    from machines
),

placed as (
    select
        model,
        femtos,
        weight,
        sum(weight) over (partition by vm_id order by model) as until,
        sum(weight) over (partition by vm_id) as whole
    from weighed
),

owned as (
    select
        model,
        sum(
            metric.floor_quotient(femtos * until, whole) - metric.floor_quotient(femtos * (until - weight), whole)
        ) as femtos
    from placed
    group by model
),

rest as (
    select cast(coalesce(any_value(cost.paid_usd), 0) * 1000000000000000 as hugeint) - sum(owned.femtos) as femtos
    from owned
    left join metric.cost_per_mtok as cost on cost.utc_day = $utc_day
),

shares as (
    select
        model,
        femtos,
        if(
            sum(greatest(femtos // 1000000000, 0)) over () = 0, 1, greatest(femtos // 1000000000, 0)
        ) as weight
    from owned
),

cut as (
    select
        model,
        femtos,
        weight,
        sum(weight) over (order by model) as until,
        sum(weight) over () as whole
    from shares
),

costs as (
    select
        cut.model,
        cast(cut.femtos as decimal(38, 0)) * cast(0.000000000000001 as decimal(16, 15)) as own_usd,
        cast(
            metric.floor_quotient(rest.femtos * cut.until, cut.whole)
            - metric.floor_quotient(rest.femtos * (cut.until - cut.weight), cut.whole) as decimal(38, 0)
        ) * cast(0.000000000000001 as decimal(16, 15)) as shared_usd
    from cut
    cross join rest
)

select
    cast($utc_day as date) as utc_day,
    coalesce(served.model, costs.model) as model,
    cast(coalesce(served.requests, 0) as bigint) as requests,
    cast(coalesce(served.served_tokens, 0) as bigint) as served_tokens,
    cast(costs.own_usd as decimal(38, 15)) as own_usd,
    cast(costs.shared_usd as decimal(38, 15)) as shared_usd,
    cast(costs.own_usd + costs.shared_usd as decimal(38, 15)) as cost_usd,
    cast(
        metric.usd_per_million(costs.own_usd + costs.shared_usd, served.served_tokens) as decimal(38, 12)
    ) as usd_per_million_tokens
from served
full outer join costs on served.model = costs.model
order by coalesce(served.model, costs.model)
