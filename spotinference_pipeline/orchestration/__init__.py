"""The only place that knows Dagster: it draws, schedules and re-runs what the stages do, and holds no logic."""
