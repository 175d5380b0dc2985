"""The setting that says which machines serve which model, as a table."""

from spotinference_pipeline import served_models
from spotinference_pipeline.warehouse import Warehouse


def rows(warehouse: Warehouse) -> list[tuple[str, int]]:
    return warehouse.query(f"from {served_models.TABLE} order by all").rows()


def test_the_table_says_what_the_setting_says_each_pair_once(scratch: Warehouse) -> None:
    served_models.record(scratch, {"qwen": [3], "llama": [2, 1, 2], "none": []})
    assert rows(scratch) == [("llama", 1), ("llama", 2), ("qwen", 3)]


def test_a_new_setting_takes_the_place_of_the_old_one(scratch: Warehouse) -> None:
    served_models.record(scratch, {"llama": [1]})
    served_models.record(scratch, {"qwen": [1]})
    assert rows(scratch) == [("qwen", 1)]
    served_models.record(scratch, {})
    assert rows(scratch) == []
