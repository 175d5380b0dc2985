-- Days on which our counters or Hyperstack's lines are far from Hyperstack's own books: a warning, the books count.
select
    utc_day,
    billed_usd,
    counter_usd,
    residual_usd,
    unattributed_usd
from rollup.reconciliation_days
where utc_day = $utc_day and not is_agreed
