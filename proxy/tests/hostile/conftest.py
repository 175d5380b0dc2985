"""Fixtures of the hostile tests: the corpus, a proxy with a recording upstream behind it, clients.

Owns loading the modules beside it by path (test modules import nothing from each other) and handing cases of
the corpus to tests that ask for `refused`, `passed` or `doubtful`.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_CORPUS, _FRONT, _RECORDER, _WIRE = (_load(name) for name in ("corpus", "front", "recorder", "wire"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name in ("refused", "passed", "doubtful"):
        if name in metafunc.fixturenames:
            cases = getattr(_CORPUS, name.upper())
            metafunc.parametrize(name, cases, ids=[case.name for case in cases])


@pytest.fixture(scope="session")
def corpus() -> ModuleType:
    return _CORPUS


@pytest.fixture(scope="session")
def make_limits() -> Callable[..., object]:
    return _FRONT.Limits


@pytest.fixture(scope="session")
def make_wire() -> type:
    return _WIRE.Wire


@pytest.fixture(scope="session")
def opened() -> list:
    """Every front that is open."""
    return []


@pytest.fixture(autouse=True)
def _complaints(opened: list) -> Iterator[None]:
    """No test may end with an exception that reached a proxy's loop, whatever its client saw."""
    yield
    complaints = [complaint for front in opened for complaint in front.complaints]
    for front in opened:
        front.complaints.clear()
    assert complaints == []


@pytest.fixture(scope="module")
def open_front(tmp_path_factory: pytest.TempPathFactory, opened: list) -> Iterator[Callable]:
    """Start fronts, which stop at the end of the module."""

    def start(*, is_naive: bool = False, **options: object) -> object:
        kind = _FRONT.NaiveRelay if is_naive else _FRONT.Front
        front = kind(_RECORDER.Recorder(), tmp_path_factory.mktemp("log"), **options)
        front.start()
        opened.append(front)
        return front

    yield start
    while opened:
        opened.pop().stop()
