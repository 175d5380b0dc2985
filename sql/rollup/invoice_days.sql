-- One row per UTC day and resource of the ledger that lies in the period of a loaded invoice: what bills it. USD.
-- A view: always what the ledger says now. Each row has at most one target: a line of that resource, else a line of its
-- category, of the shorter period first, then of the earlier. A target is null where no line bills the resource. The
-- invoice is the one with that line; without a line, one whose period has the day. The first by number of several.
-- Public IPs are part of their machine, as in Hyperstack's books. docs/invoice.md, "Matching".
with revisions as (
    select
        invoice_number,
        max(revision) as revision
    from validated.invoice_lines
    group by invoice_number
),

billed_lines as (
    select
        lines.invoice_number,
        lines.resource_type,
        lines.resource_id,
        lines.category,
        lines.period_start,
        lines.period_end
    from validated.invoice_lines as lines
    inner join revisions
        on lines.invoice_number = revisions.invoice_number and lines.revision = revisions.revision
),

invoices as (
    select
        invoice_number,
        min(period_start) as period_start,
        max(period_end) as period_end
    from billed_lines
    group by invoice_number
),

targets as (
    select
        resource_type,
        resource_id,
        category,
        period_start,
        period_end,
        min(invoice_number) as invoice_number
    from billed_lines
    where category is distinct from 'tax'
    group by resource_type, resource_id, category, period_start, period_end
),

ledger as (
    select
        utc_day,
        resource_type,
        resource_id,
        case
            when resource_type in ('vm', 'volume', 'snapshot', 'bucket', 'cluster', 'contract') then resource_type
            else 'other'
        end as category,
        cast(sum(cost_usd) as decimal(38, 15)) as ledger_usd
    from rollup.cost_days
    group by utc_day, resource_type, resource_id
),

billed_days as (
    select
        ledger.utc_day,
        ledger.resource_type,
        ledger.resource_id,
        ledger.category,
        ledger.ledger_usd,
        min(invoices.invoice_number) as invoice_number
    from ledger
    inner join invoices on ledger.utc_day >= invoices.period_start and ledger.utc_day < invoices.period_end
    group by ledger.utc_day, ledger.resource_type, ledger.resource_id, ledger.category, ledger.ledger_usd
)

select
    days.utc_day,
    days.resource_type,
    days.resource_id,
    days.ledger_usd,
    coalesce(targets.invoice_number, days.invoice_number) as invoice_number,
    nullif(concat_ws(' ', targets.category, targets.resource_type, targets.resource_id), '') as target,
    targets.period_start,
    targets.period_end
from billed_days as days
left join targets
    on
        days.utc_day >= targets.period_start
        and days.utc_day < targets.period_end
        and (
            (days.resource_type = targets.resource_type and days.resource_id = targets.resource_id)
            or days.category = targets.category
        )
qualify
    row_number() over (
        partition by days.utc_day, days.resource_type, days.resource_id
        order by
            (targets.resource_id is null) asc,
            (targets.period_end - targets.period_start) asc,
            targets.period_start asc
    ) = 1
order by days.utc_day, days.resource_type, days.resource_id
