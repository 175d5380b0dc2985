"""Command `spotinference-proxy`: run the proxy, or make and list keys.

Owns the environment, exit codes (0 done, 1 failed, 2 wrong use) and the one-line errors. The only module that reads
the process's environment. The event loop and all that needs it are imported where a proxy is run, so that commands
about keys, and the supervisor of several workers, stay small and quick.
"""

import argparse
import contextlib
import os
import resource
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from spotinference_proxy.addresses import ListenError
from spotinference_proxy.errors import LogError, SettingsError
from spotinference_proxy.keys import new_key, read_entries
from spotinference_proxy.logs import Logs
from spotinference_proxy.settings import Settings, read_keys_file, read_settings

DONE, FAILED, WRONG_USE = 0, 1, 2


def main() -> NoReturn:
    """Entry point of the installed command."""
    code = run(sys.argv[1:], os.environ)
    sys.stdout.flush()
    if threading.active_count() > 1:  # an object store's client that hangs must not hold up the end
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the command line says; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        if options.version:
            return _tell_version()
        if options.command == "key":
            return _keys(options, read_keys_file(environ))
        return _run_proxy(read_settings(environ), environ)
    except SettingsError as error:
        return _say(error, WRONG_USE)
    except (LogError, ListenError, OSError) as error:
        return _say(error, FAILED)


def raise_file_limit() -> None:
    """Take as many descriptors as may be had: each request in flight has two, and 1024 is a usual soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(WRONG_USE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="spotinference-proxy",
        description="Pass-through proxy in front of vLLM that writes a durable request log. Settings: the environment.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    key = parser.add_subparsers(dest="command", metavar="key").add_parser("key", help="make and list client keys")
    actions = key.add_subparsers(dest="action", required=True, metavar="new|list")
    new = actions.add_parser("new", help="print a new key once and store its SHA-256")
    new.add_argument("--label", required=True, help="who the key is for")
    actions.add_parser("list", help="print the id, the time of creation and the label of each key")
    return parser


def _keys(options: argparse.Namespace, path: Path) -> int:
    if options.action == "new":
        print(new_key(path, options.label, datetime.now(UTC)))
        return DONE
    for entry in read_entries(path):
        label = entry.label if entry.label.isprintable() else ascii(entry.label)
        print(f"{entry.sha256[:12]}  {entry.created_at}  {label}")
    return DONE


def _run_proxy(settings: Settings, environ: Mapping[str, str]) -> int:
    raise_file_limit()
    if settings.workers > 1 and settings.worker is None:
        from spotinference_proxy.workers import supervise  # noqa: PLC0415 - see above

        return supervise(settings, environ, Logs())
    from spotinference_proxy import serving  # noqa: PLC0415 - see above

    serving.run(settings, environ)
    return DONE


def _tell_version() -> int:
    from importlib.metadata import version  # noqa: PLC0415 - see above

    print(f"spotinference-proxy {version('spotinference-proxy')}")
    return DONE


def _say(error: Exception, code: int) -> int:
    print(f"spotinference-proxy: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
