"""One proxy process from its start to its end: signals, reloads, and a supervisor that may be gone.

Owns the order of starting and stopping as signals ask for it: the first SIGTERM or SIGINT lets running requests end,
a second one does not wait; SIGHUP reads upstreams and keys again. Does not own what starting and stopping are: app.py.
"""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime, timedelta
from typing import Any, Protocol

import uvloop

from spotinference_proxy.addresses import ListenError, explain_listening, text_of
from spotinference_proxy.app import Proxy, utc_now
from spotinference_proxy.errors import SettingsError
from spotinference_proxy.logs import Logs, StandardHandler
from spotinference_proxy.setting_values import is_loopback
from spotinference_proxy.settings import SUPERVISOR, Settings, read_settings, reloaded, take_over

_GC_THRESHOLD = (20_000, 20, 50)  # a request makes some hundred objects and leaves no cycle behind
PARENT_SECONDS = 1.0  # between two looks at whether the supervisor lives


class Served(Protocol):
    """As much of a proxy as its life needs."""

    address: tuple[str, int]
    admin_address: tuple[str, int]

    async def start(self) -> None:
        """Be ready to serve, or raise."""

    async def stop(self) -> None:
        """Let running requests end, then stop."""

    async def stop_now(self) -> None:
        """Stop; a `stop` that waits for requests comes to its end."""

    def reload(self, settings: Settings) -> None:
        """Take over what may change at once."""


def run(settings: Settings, environ: Mapping[str, str]) -> None:
    """Serve on an event loop of its own until a signal ends it. Raises: LogError, SettingsError, ListenError."""
    settings, rest = take_over(settings, environ)
    clock = clock_of(settings)
    logs = Logs(clock=clock)
    if rest:
        logs.warning("settings_kept", needs_restart=rest, message="as the other workers have them")
    handler = StandardHandler(logs)
    logging.getLogger().addHandler(handler)
    gc.freeze()  # modules live as long as the process: looking through them costs a tenth of the processor time
    gc.set_threshold(*_GC_THRESHOLD)
    try:
        uvloop.run(serve(settings, clock, environ, logs))
    finally:
        logging.getLogger().removeHandler(handler)


async def serve(
    settings: Settings,
    clock: Callable[[], datetime],
    environ: Mapping[str, str],
    logs: Logs,
    make: Callable[..., Served] = Proxy,
) -> None:
    """Serve what `make` makes until a signal ends it. Raises: LogError, SettingsError, ListenError."""
    life = _Life(make(settings, clock, logs=logs), settings, environ, logs)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, life.end)
    loop.add_signal_handler(signal.SIGHUP, life.reload)
    watch = loop.create_task(life.watch_supervisor())
    try:
        await life.live()
    finally:
        watch.cancel()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.remove_signal_handler(number)


def clock_of(settings: Settings) -> Callable[[], datetime]:
    """Return the machine's clock, or one that starts at SPOTINFERENCE_NOW and runs on."""
    start = settings.now
    if start is None:
        return utc_now
    began = time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


class _Life:
    """What the signals of one process work on."""

    def __init__(self, proxy: Served, settings: Settings, environ: Mapping[str, str], logs: Logs) -> None:
        self._proxy = proxy
        self._settings = settings
        self._environ = environ
        self._logs = logs
        self._is_over = asyncio.Event()
        self._is_urgent = asyncio.Event()
        self._is_started = False
        self._is_reload_due = False

    async def live(self) -> None:
        """Start, serve, stop."""
        try:
            if not await self._unless_urgent(self._proxy.start()):
                return
        except OSError as error:
            raise ListenError(explain_listening(error, self._settings)) from error
        self._is_started = True
        self._tell_listening()
        if self._is_reload_due:
            self.reload()
        await self._is_over.wait()
        self._logs.info("stopping", seconds=self._settings.stop_seconds)
        stop = asyncio.ensure_future(self._proxy.stop())
        if not await self._unless_urgent(asyncio.wait([stop])):
            self._logs.warning("stopping_now")
            await self._proxy.stop_now()
        await stop
        self._logs.info("stopped")

    def end(self) -> None:
        """Stop in order; told again, at once."""
        (self._is_urgent if self._is_over.is_set() else self._is_over).set()

    def reload(self) -> None:
        """Read the settings again and take over what may change at once."""
        if not self._is_started:
            self._is_reload_due = True
            return
        try:
            settings, rest = reloaded(self._settings, read_settings(self._environ))
            self._proxy.reload(settings)
        except SettingsError as error:
            self._logs.error("reload_refused", problem=str(error))
            return
        self._settings = settings
        self._logs.info("reloaded", upstreams=len(settings.upstreams), needs_restart=rest)

    async def watch_supervisor(self) -> None:
        """End a worker whose supervisor was killed: nobody would restart or stop it."""
        pid = self._environ.get(SUPERVISOR, "")
        if self._settings.worker is None or not pid.isdigit():
            return
        while os.getppid() == int(pid):
            await asyncio.sleep(PARENT_SECONDS)
        self._logs.error("supervisor_gone")
        self.end()

    async def _unless_urgent(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Do `work` to its end; False when it was cut short because there is no time for it."""
        tasks = [asyncio.ensure_future(work), asyncio.ensure_future(self._is_urgent.wait())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        is_done = tasks[0].done()
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if is_done and isinstance(results[0], BaseException):
            raise results[0]
        return is_done

    def _tell_listening(self) -> None:
        proxy, settings = self._proxy, self._settings
        address, admin = text_of(proxy.address), text_of(proxy.admin_address)
        self._logs.info(
            "listening",
            message=f"listening on {address}, log in {settings.log_dir}",
            address=address,
            admin_address=admin,
            log_dir=str(settings.log_dir),
            worker=settings.worker,
            pid=os.getpid(),
        )
        if not is_loopback(settings.admin_listen[0]):
            self._logs.warning("admin_is_public", admin_address=admin, message="anyone who reaches it can read metrics")
