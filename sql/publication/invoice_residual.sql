-- One row for the day D: the sum of |residual| of all lines of the invoices whose period overlaps the seven days that
-- end with D, in USD. Null unless each of the seven days is billed by an invoice, and every day of those invoices is
-- built: a residual of half a ledger would say nothing. docs/invoice.md, "In the publication".
with days as (
    select cast($utc_day as date) - cast(unnest(range(7)) as integer) as utc_day
),

invoices as (
    select
        invoice_number,
        min(period_start) as period_start,
        max(period_end) as period_end,
        max(period_days) = max(built_days) as is_built,
        coalesce(sum(abs(residual_usd)), 0) as residual_usd
    from metric.invoice_residuals
    group by invoice_number
    having min(period_start) <= $utc_day and max(period_end) > cast($utc_day as date) - 6
),

billed as (
    select count(distinct days.utc_day) as billed_days
    from days
    inner join invoices on days.utc_day >= invoices.period_start and days.utc_day < invoices.period_end
)

select
    cast($utc_day as date) as utc_day,
    cast(
        case
            when max(billed.billed_days) = 7 and bool_and(invoices.is_built) then sum(invoices.residual_usd)
        end as decimal(38, 15)
    ) as invoice_residual_usd
from billed
left join invoices on true
