-- Days whose parts do not add up to the number, or to what was paid.
select
    cost.utc_day,
    cost.paid_usd,
    sum(parts.paid_usd) as parts_usd,
    cost.usd_per_million_tokens,
    sum(parts.usd_per_million_tokens) as parts_per_million
from metric.cost_per_mtok as cost
left join metric.cost_parts as parts on cost.utc_day = parts.utc_day
where cost.utc_day = $utc_day
group by cost.utc_day, cost.paid_usd, cost.usd_per_million_tokens
having
    coalesce(cost.paid_usd, 0) != coalesce(sum(parts.paid_usd), 0)
    or cost.usd_per_million_tokens is distinct from sum(parts.usd_per_million_tokens)
