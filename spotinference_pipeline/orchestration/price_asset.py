"""The asset of our own copies of list prices: without partitions, because only today's can be made."""

import dagster as dg

from spotinference_pipeline.errors import SpotinferenceError
from spotinference_pipeline.orchestration import reports, steps
from spotinference_pipeline.orchestration.assets import OWNERS, POOL, Results
from spotinference_pipeline.settings import Settings

LIST_PRICES = dg.AssetKey(["raw", "list_prices"])
COPIED = "list_prices_are_copied"


def build_list_prices(settings: Settings) -> dg.AssetsDefinition:
    """Build the asset."""

    @dg.asset(
        key=LIST_PRICES,
        group_name="raw",
        owners=OWNERS,
        kinds={"json", "python"},
        description=(
            "Our own copy of hosted APIs' list prices, one file a UTC day, from the pinned genai-prices, without network. A day "
            "that has its copy is left alone, so that history never reprices itself. Where none can be made, the last one counts "
            "and everything else goes on."
        ),
        check_specs=[
            dg.AssetCheckSpec(
                COPIED, asset=LIST_PRICES, description="Today has its copy of list prices; else why it has none."
            )
        ],
        pool=POOL,
    )
    def copy_list_prices() -> Results:
        path, problem = None, None
        try:
            path = steps.copy_list_prices(settings)
        except SpotinferenceError as error:
            problem = str(error)
        yield reports.copied_list_prices(path, problem)

    return copy_list_prices
