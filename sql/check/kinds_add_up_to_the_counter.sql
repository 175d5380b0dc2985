-- Resources whose cost by kind is not their cost of that day: the bill, or what their counter moved by.
select
    days.utc_day,
    days.resource_type,
    days.resource_id,
    days.cost_usd,
    coalesce(sum(kinds.cost_usd), 0) as kinds_usd
from rollup.resource_days as days
left join rollup.cost_days as kinds
    on
        days.utc_day = kinds.utc_day
        and days.resource_type = kinds.resource_type
        and days.resource_id = kinds.resource_id
where days.utc_day = $utc_day
group by days.utc_day, days.resource_type, days.resource_id, days.cost_usd
having days.cost_usd != coalesce(sum(kinds.cost_usd), 0)
