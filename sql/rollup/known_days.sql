-- One row per UTC day that is built and of which something is known: a good minute, or a book. A view. Left out are
-- days that were built without either: they cost nothing in the ledger because nobody looked. docs/method.md,
-- "Coverage".
select utc_day
from rollup.snapshot_days
where minutes_good > 0

union

select utc_day
from rollup.reconciliation_days
order by utc_day
