"""spotinference: what we paid divided by what we served.

Stages, in the order of the data: raw, validated, rollup, metric, publication. A table has one name everywhere:
`rollup.token_days` is `sql/rollup/token_days.sql` and the Dagster asset `rollup/token_days`.

A module imports only from rings below its own: edges (command line, Dagster), order (backfill), stages (from snapshot to
publication), foundations, ground. Which module is in which ring is said once, in the import contracts of pyproject.toml.
"""
