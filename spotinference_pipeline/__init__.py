"""spotinference: what we paid divided by what we served.

Stages, in the order of the data: raw, validated, rollup, metric, publication. A table has one name everywhere:
`rollup.token_days` is `sql/rollup/token_days.sql` and the Dagster asset `rollup/token_days`.

Rings; a module may import only from rings below its own (checked by import-linter, see pyproject.toml):
    edges         cli, orchestration
    order         backfill
    stages        snapshot, validated, ledger, transform, checks, publication, verification
    foundations   hyperstack, answers, raw, request_log, contracts, warehouse, storage, page, public_files
    ground        settings, windows, meter, errors
"""
