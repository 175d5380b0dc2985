-- What was paid in the seven UTC days that end with $utc_day, in US dollars before tax: the numerator of the number.
-- Every part counts: busy, idle, cold starts, parked machines, storage, network, credits.
select
    cast($utc_day as date) as utc_day,
    sum(cost_usd) as paid_usd
from metric.inputs
where
    line = 'cost'
    and utc_day > cast($utc_day as date) - interval 7 days
    and utc_day <= $utc_day
