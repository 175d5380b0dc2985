-- Lines whose bill of the month is more than a minute's price off the sum of their days: a warning, the month counts.
select
    utc_day,
    resource_type,
    resource_id,
    sum(cost_usd) as cost_usd,
    max(tolerance_usd) as tolerance_usd
from rollup.adjustments
where utc_day = $utc_day and reason = 'month_boundary'
group by utc_day, resource_type, resource_id
having abs(sum(cost_usd)) > max(tolerance_usd)
order by resource_type, resource_id
