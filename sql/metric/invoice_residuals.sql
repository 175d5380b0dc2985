-- One row per line of each loaded invoice in its newest revision, and one per resource that the ledger has in the
-- period of an invoice and no line bills. USD; residual = billed - ledger. A view: always what the ledger says now.
-- Lines that bill the same thing share its ledger, over all invoices, by number and line: a credit takes what it bills,
-- any other line what it bills and at most what is left, the last line the rest. Tax is never matched: its ledger is
-- null. built_days are those of which something is known. docs/invoice.md, "Matching".
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
        lines.line,
        if(lines.category = 'tax', 'tax', 'billed') as line_kind,
        lines.description,
        lines.resource_type,
        lines.resource_id,
        lines.category,
        lines.quantity,
        lines.unit,
        lines.period_start,
        lines.period_end,
        lines.billed_usd,
        concat_ws(' ', lines.category, lines.resource_type, lines.resource_id) as target
    from validated.invoice_lines as lines
    inner join revisions
        on lines.invoice_number = revisions.invoice_number and lines.revision = revisions.revision
),

invoices as (
    select
        lines.invoice_number,
        revisions.revision,
        min(lines.period_start) as period_start,
        max(lines.period_end) as period_end
    from billed_lines as lines
    inner join revisions on lines.invoice_number = revisions.invoice_number
    group by lines.invoice_number, revisions.revision
),

invoice_days as (
    select
        invoices.invoice_number,
        count(days.utc_day) as built_days
    from invoices
    left join rollup.known_days as days
        on invoices.period_start <= days.utc_day and invoices.period_end > days.utc_day
    group by invoices.invoice_number
),

matched as (
    select
        target,
        period_start,
        period_end,
        sum(ledger_usd) as ledger_usd
    from rollup.invoice_days
    where target is not null
    group by target, period_start, period_end
),

-- what each line takes of its target's ledger; positive lines share what is left of it beside the credits
shares as (
    select
        lines.invoice_number,
        lines.line,
        lines.target,
        lines.period_start,
        lines.period_end,
        coalesce(matched.ledger_usd, 0) as ledger_usd,
        if(
            lines.billed_usd < 0,
            lines.billed_usd,
            least(
                lines.billed_usd,
                greatest(
                    coalesce(matched.ledger_usd, 0)
                    - sum(least(lines.billed_usd, 0)) over of_target
                    - (sum(greatest(lines.billed_usd, 0)) over in_order - lines.billed_usd),
                    0
                )
            )
        ) as taken_usd,
        row_number() over in_order = count(*) over of_target as is_last
    from billed_lines as lines
    left join matched
        on
            lines.target = matched.target
            and lines.period_start = matched.period_start
            and lines.period_end = matched.period_end
    where lines.line_kind != 'tax'
    window
        of_target as (partition by lines.target, lines.period_start, lines.period_end),
        in_order as (
            partition by lines.target, lines.period_start, lines.period_end
            order by lines.invoice_number, lines.line
            rows unbounded preceding
        )
),

takes as (
    select
        invoice_number,
        line,
        if(is_last, ledger_usd - (sum(taken_usd) over of_target - taken_usd), taken_usd) as ledger_usd
    from shares
    window of_target as (partition by target, period_start, period_end)
),

compared as (
    select
        lines.invoice_number,
        lines.line,
        lines.line_kind,
        lines.description,
        lines.resource_type,
        lines.resource_id,
        lines.category,
        lines.quantity,
        lines.unit,
        lines.period_start,
        lines.period_end,
        lines.billed_usd,
        takes.ledger_usd
    from billed_lines as lines
    left join takes on lines.invoice_number = takes.invoice_number and lines.line = takes.line

    union all by name

    select
        days.invoice_number,
        'unbilled' as line_kind,
        'in the ledger, on no line of the invoice' as description,
        days.resource_type,
        days.resource_id,
        invoices.period_start,
        invoices.period_end,
        0 as billed_usd,
        sum(days.ledger_usd) as ledger_usd
    from rollup.invoice_days as days
    inner join invoices on days.invoice_number = invoices.invoice_number
    where days.target is null
    group by
        days.invoice_number, days.resource_type, days.resource_id, invoices.period_start, invoices.period_end
    having sum(days.ledger_usd) != 0
)

select
    compared.invoice_number,
    invoices.revision,
    compared.line,
    compared.line_kind,
    compared.description,
    compared.resource_type,
    compared.resource_id,
    compared.category,
    compared.quantity,
    compared.unit,
    compared.period_start,
    compared.period_end,
    cast(compared.billed_usd as decimal(28, 9)) as billed_usd,
    cast(compared.ledger_usd as decimal(38, 15)) as ledger_usd,
    cast(compared.billed_usd - compared.ledger_usd as decimal(38, 15)) as residual_usd,
    cast(100 * round(compared.billed_usd - compared.ledger_usd, 2) as bigint) as residual_cents,
    cast(invoices.period_end - invoices.period_start as bigint) as period_days,
    invoice_days.built_days
from compared
inner join invoices on compared.invoice_number = invoices.invoice_number
inner join invoice_days on compared.invoice_number = invoice_days.invoice_number
order by compared.invoice_number, compared.line is null, compared.line, compared.resource_type, compared.resource_id
