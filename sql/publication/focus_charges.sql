-- One row per charge of the UTC day: resource and kind of cost, in the columns of FOCUS 1.2 (docs/focus.md), their
-- names in lower case. USD. The billed costs of a day add up to the ledger's. Unknown is null.
-- Quantities: hours in which a machine was busy, idle, ...; of all else, days on which it was billed.
with ledger_lines as (
    select
        utc_day,
        resource_type,
        resource_id,
        cost_kind,
        cost_usd,
        if(cost_kind = 'credit', 'Credit', 'Usage') as charge_category,
        cast(null as varchar) as adjustment_reason,
        cast(null as timestamptz) as booked_at
    from rollup.cost_days
    where utc_day = $utc_day
),

-- The one place for adjustments: rows of rollup.adjustments with charge_category 'Adjustment' and cost_kind 'other',
-- once there are such rows that are not in rollup.cost_days already.
adjustment_lines as (
    select
        utc_day,
        resource_type,
        resource_id,
        cost_kind,
        cost_usd,
        'Adjustment' as charge_category,
        adjustment_reason,
        booked_at
    from ledger_lines
    where false
),

charges as (
    select
        lines.utc_day,
        lines.resource_type,
        lines.resource_id,
        lines.cost_kind,
        lines.cost_usd,
        lines.charge_category,
        lines.adjustment_reason,
        lines.booked_at,
        date_trunc('month', lines.utc_day) as period_start,
        cast(
            (case
                when lines.charge_category != 'Usage' then null
                when machines.vm_id is null then 3600
                when lines.cost_kind = 'busy' then machines.busy_seconds
                when lines.cost_kind = 'cold_start' then machines.cold_start_seconds
                when lines.cost_kind = 'idle'
                    then machines.active_seconds - machines.busy_seconds - machines.cold_start_seconds
                when lines.cost_kind = 'parked' then machines.alive_seconds - machines.active_seconds
                else machines.alive_seconds
            end) / 3600 as decimal(18, 9)
        ) as quantity,
        case
            when lines.charge_category != 'Usage' then null
            when machines.vm_id is null then 'Days'
            else 'Hours'
        end as unit
    from (
        select
            utc_day,
            resource_type,
            resource_id,
            cost_kind,
            cost_usd,
            charge_category,
            adjustment_reason,
            booked_at
        from ledger_lines

        union all

        select
            utc_day,
            resource_type,
            resource_id,
            cost_kind,
            cost_usd,
            charge_category,
            adjustment_reason,
            booked_at
        from adjustment_lines
    ) as lines
    left join rollup.vm_days as machines
        on
            lines.utc_day = machines.utc_day
            and lines.resource_type = 'vm'
            and lines.resource_id = machines.vm_id
),

services (resource_type, service_category, service_subcategory, service_name) as (
    values
    ('vm', 'Compute', 'Virtual Machines', 'Virtual Machines'),
    ('volume', 'Storage', 'Block Storage', 'Volumes'),
    ('snapshot', 'Storage', 'Backup Storage', 'Snapshots'),
    ('bucket', 'Storage', 'Object Storage', 'Object Storage'),
    ('cluster', 'Compute', 'Containers', 'Kubernetes'),
    ('contract', 'Compute', 'Other (Compute)', 'Contracts')
)

select
    cast(charges.cost_usd as decimal(38, 15)) as billed_cost,
    'USD' as billing_currency,
    cast(charges.period_start as timestamptz) as billing_period_start,
    cast(charges.period_start + interval 1 month as timestamptz) as billing_period_end,
    charges.charge_category,
    if(charges.booked_at >= charges.period_start + interval 1 month, 'Correction', null) as charge_class,
    concat(
        charges.resource_type, ' ', charges.resource_id, ': ', coalesce(charges.adjustment_reason, charges.cost_kind)
    ) as charge_description,
    if(charges.charge_category = 'Usage', 'Usage-Based', 'One-Time') as charge_frequency,
    cast(charges.utc_day as timestamptz) as charge_period_start,
    cast(charges.utc_day + 1 as timestamptz) as charge_period_end,
    charges.quantity as consumed_quantity,
    charges.unit as consumed_unit,
    cast(charges.cost_usd as decimal(38, 15)) as contracted_cost,
    cast(charges.cost_usd as decimal(38, 15)) as effective_cost,
    invoiced.invoice_number as invoice_id,
    'Hyperstack' as invoice_issuer_name,
    cast(charges.cost_usd as decimal(38, 15)) as list_cost,
    if(charges.charge_category = 'Usage', 'Standard', null) as pricing_category,
    charges.quantity as pricing_quantity,
    charges.unit as pricing_unit,
    'Hyperstack' as provider_name,
    'Hyperstack' as publisher_name,
    cast(null as varchar) as region_id,
    cast(null as varchar) as region_name,
    concat(charges.resource_type, '/', charges.resource_id) as resource_id,
    resources.resource_name,
    charges.resource_type,
    if(charges.cost_kind = 'network', 'Networking', coalesce(services.service_category, 'Other')) as service_category,
    if(charges.cost_kind = 'network', 'Public IPs', coalesce(services.service_name, charges.resource_type))
        as service_name,
    if(
        charges.cost_kind = 'network', 'Network Infrastructure', coalesce(services.service_subcategory, 'Other (Other)')
    ) as service_subcategory,
    if(
        charges.charge_category = 'Usage',
        concat(charges.resource_type, if(charges.cost_kind = 'network', '/public_ip', '')),
        null
    ) as sku_id,
    if(
        charges.charge_category = 'Usage',
        concat(charges.resource_type, if(charges.cost_kind = 'network', '/public_ip', '')),
        null
    ) as sku_price_id,
    cast(null as varchar) as sub_account_id,
    cast(null as varchar) as sub_account_name,
    cast(null as varchar) as tags,
    charges.cost_kind as x_cost_kind,
    charges.adjustment_reason as x_adjustment_reason
from charges
left join services on charges.resource_type = services.resource_type
left join rollup.resource_days as resources
    on
        charges.utc_day = resources.utc_day
        and charges.resource_type = resources.resource_type
        and charges.resource_id = resources.resource_id
left join rollup.invoice_days as invoiced
    on
        charges.utc_day = invoiced.utc_day
        and charges.resource_type = invoiced.resource_type
        and charges.resource_id = invoiced.resource_id
        and invoiced.target is not null
order by charges.utc_day, charges.resource_type, charges.resource_id, charges.cost_kind, charges.booked_at
