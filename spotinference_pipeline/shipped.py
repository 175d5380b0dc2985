"""Where the files are that ship beside the code: `sql/`, `site/`, `workspace.yaml`, `dagster.yaml`, `deploy/`."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def path(name: str) -> Path:
    """Give a shipped file or folder: inside the installed package, or beside it in a checkout."""
    installed = _PACKAGE / name
    return installed if installed.exists() else _PACKAGE.parent / name
