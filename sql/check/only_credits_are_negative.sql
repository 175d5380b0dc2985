-- Cost lines below zero that are not credits.
select
    utc_day,
    resource_type,
    resource_id,
    cost_kind,
    cost_usd
from rollup.cost_days
where utc_day = $utc_day and cost_kind != 'credit' and cost_usd < 0
