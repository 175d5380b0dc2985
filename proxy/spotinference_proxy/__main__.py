"""Command `spotinference-proxy`: run the proxy, or make a key.

Owns the environment, exit codes (0 done, 1 failed, 2 wrong use) and the one-line errors. The only module that
reads the process's environment or installs signal handlers.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from spotinference_proxy.app import Proxy, utc_now
from spotinference_proxy.errors import LogError, SettingsError
from spotinference_proxy.keys import new_key
from spotinference_proxy.settings import Settings, read_keys_file, read_settings

DONE, FAILED, WRONG_USE = 0, 1, 2


def main() -> None:
    """Entry point of the installed command."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(prog="spotinference-proxy", description="Proxy in front of vLLM.")
    key = parser.add_subparsers(dest="command").add_parser("key", help="manage client keys")
    new = key.add_subparsers(dest="action", required=True).add_parser("new", help="print a new key once")
    new.add_argument("--label", required=True, help="who the key is for")
    options = parser.parse_args(arguments)
    try:
        if options.command == "key":
            print(new_key(read_keys_file(environ), options.label, utc_now()))
        else:
            settings = read_settings(environ)
            asyncio.run(serve(settings, clock_of(settings)))
    except SettingsError as error:
        return _say(error, WRONG_USE)
    except (LogError, OSError) as error:
        return _say(error, FAILED)
    return DONE


def clock_of(settings: Settings) -> Callable[[], datetime]:
    """Return the machine's clock, or one that starts at SPOTINFERENCE_NOW and runs on."""
    start = settings.now
    if start is None:
        return utc_now
    began = time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


async def serve(settings: Settings, clock: Callable[[], datetime]) -> None:
    """Run until SIGTERM or SIGINT, then stop in order."""
    is_over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, is_over.set)
    proxy = Proxy(settings, clock)
    await proxy.start()
    print(
        f"listening on {proxy.address[0]}:{proxy.address[1]}, log in {settings.log_dir}",
        file=sys.stderr,
        flush=True,
    )
    await is_over.wait()
    await proxy.stop()


def _say(error: Exception, code: int) -> int:
    print(f"spotinference-proxy: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
