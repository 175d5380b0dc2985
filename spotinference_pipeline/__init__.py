"""spotinference: what we paid divided by what we served.

Stages, in the order of the data: raw, validated, rollup, metric, publication. A table has one name everywhere:
`rollup.token_days` is `sql/rollup/token_days.sql` and the Dagster asset `rollup/token_days`.

Rings, outermost first; a module imports only from rings below its own (import contracts in pyproject.toml):
    edges         cli, cli_books, cli_reports, demo, orchestration, serving
    order         backfill, explanation
    stages        snapshot, reconciliation, validated, ledger, wakes, transform, checks, invoices, focus, publication,
                  served_models, verification
    foundations   own_days, settlement, books, readings, hyperstack, http_get, pacing, snapshot_memory, history_lists,
                  schema_drift, answers, raw, request_log, raw_invoices, invoice_lines, batch, hyperstack_rows, log_rows,
                  invoice_rows, contracts, states, charges, warehouse, storage, page, revision, public_files
    ground        settings, processes, windows, meter, shipped, errors
"""
