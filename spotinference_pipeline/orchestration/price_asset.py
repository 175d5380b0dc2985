"""The asset of our own copies of list prices: without partitions, because only today's can be made."""

import dagster as dg

from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.orchestration.assets import OWNERS, POOL
from spotinference_pipeline.settings import Settings

LIST_PRICES = dg.AssetKey(["raw", "list_prices"])


def build_list_prices(settings: Settings) -> dg.AssetsDefinition:
    """Build the asset."""

    @dg.asset(
        key=LIST_PRICES,
        group_name="raw",
        owners=OWNERS,
        kinds={"json", "python"},
        description=(
            "Our own copy of hosted APIs' list prices, one file a UTC day, from the pinned genai-prices, without network. A day "
            "that has its copy is left alone, so that history never reprices itself."
        ),
        pool=POOL,
    )
    def copy_list_prices(context: dg.AssetExecutionContext) -> None:
        reports.record_list_prices(context, steps.copy_list_prices(settings))

    return copy_list_prices
