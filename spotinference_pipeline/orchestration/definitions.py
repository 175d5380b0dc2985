"""The code location: `build(settings)` makes a fresh graph, `defs` is the one of this environment."""

import os

import dagster as dg

from spotinference_pipeline import raw
from spotinference_pipeline import settings as settings_module
from spotinference_pipeline.orchestration.asset_checks import build_checks
from spotinference_pipeline.orchestration.assets import BOOKS, build_assets
from spotinference_pipeline.orchestration.automation import (
    BOOKS_JOB,
    DAILY,
    DAILY_JOB,
    INGEST_JOB,
    VALIDATED,
    build_schedules,
    build_sensors,
)
from spotinference_pipeline.orchestration.freshness import watched
from spotinference_pipeline.orchestration.price_asset import LIST_PRICES, build_list_prices
from spotinference_pipeline.orchestration.views import build_views
from spotinference_pipeline.settings import Settings


def build(settings: Settings) -> dg.Definitions:
    """Build the whole graph for these settings."""
    first_day = settings.first_day or raw.first_day(settings.raw_dir) or settings.clock().date()
    return dg.Definitions(
        assets=dg.map_asset_specs(
            watched, [*build_assets(settings, first_day), *build_views(settings), build_list_prices(settings)]
        ),
        asset_checks=build_checks(settings),
        jobs=[
            dg.define_asset_job(
                INGEST_JOB,
                dg.AssetSelection.assets(LIST_PRICES) | VALIDATED,
                description="Copy today's list prices once, read landed files and sealed segments into the validated tables.",
            ),
            dg.define_asset_job(
                BOOKS_JOB,
                dg.AssetSelection.assets(BOOKS) | VALIDATED,
                description="Read Hyperstack's books of closed days; `late_data` builds these days again. Also by hand.",
            ),
            dg.define_asset_job(
                DAILY_JOB,
                dg.AssetSelection.assets(LIST_PRICES) | VALIDATED | DAILY,
                description="Read what has landed, then build and publish closed UTC days. Also the backfill of past days.",
            ),
        ],
        schedules=build_schedules(first_day),
        sensors=build_sensors(settings),
        executor=dg.in_process_executor,
    )


defs = build(settings_module.read(os.environ))
