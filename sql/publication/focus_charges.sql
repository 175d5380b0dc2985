-- One row per charge of the UTC day, in the columns of FOCUS 1.2 (docs/focus.md), their names in lower case: resource
-- and kind of cost as first billed, then each change that a later book or the month's brought, as a row of its own: no
-- later book edits a row. USD. The billed costs of a day add up to the ledger's. Quantities: hours in which a machine
-- was busy, idle, ...; of all else, days on which it was billed. Unknown is null.
with changes as (
    select
        adjustments.resource_type,
        adjustments.resource_id,
        adjustments.reason,
        adjustments.cost_usd,
        adjustments.booked_at
    from rollup.adjustments as adjustments
    inner join rollup.reconciliation_days as days on adjustments.utc_day = days.utc_day
    where
        adjustments.utc_day = $utc_day
        and (adjustments.booked_at > days.first_book_at or adjustments.reason = 'month_boundary')
),

charges as (
    select
        cast($utc_day as date) as utc_day,
        lines.resource_type,
        lines.resource_id,
        lines.cost_kind,
        lines.cost_usd,
        lines.list_cost_usd,
        lines.charge_category,
        lines.adjustment_reason,
        lines.booked_at,
        date_trunc('month', cast($utc_day as date)) as period_start,
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
            resource_type,
            resource_id,
            cost_kind,
            cost_usd,
            coalesce(list_cost_usd, cost_usd) as list_cost_usd,
            if(cost_kind = 'credit', 'Credit', 'Usage') as charge_category,
            null as adjustment_reason,
            null as booked_at
        from rollup.charge_days
        where utc_day = $utc_day

        union all

        select
            resource_type,
            resource_id,
            null as cost_kind,
            cost_usd,
            cost_usd as list_cost_usd,
            'Adjustment' as charge_category,
            reason as adjustment_reason,
            booked_at
        from changes
    ) as lines
    left join rollup.vm_days as machines
        on
            machines.utc_day = $utc_day
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
    ('contract', 'Compute', 'Other (Compute)', 'Contracts'),
    ('serverless_inference', 'AI and Machine Learning', 'Generative AI', 'Serverless Inference'),
    ('image_generation', 'AI and Machine Learning', 'Generative AI', 'Image Generation'),
    ('fine_tuning', 'AI and Machine Learning', 'Machine Learning', 'Fine-Tuning'),
    ('model_evaluation', 'AI and Machine Learning', 'Machine Learning', 'Model Evaluation'),
    ('data_synthesis', 'AI and Machine Learning', 'Machine Learning', 'Data Synthesis')
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
    cast(charges.list_cost_usd as decimal(38, 15)) as list_cost,
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
order by
    charges.utc_day,
    charges.resource_type,
    charges.resource_id,
    charges.cost_kind nulls last,
    charges.booked_at,
    charges.adjustment_reason
