"""Starts the product broken on purpose, so that a check can be shown to fail: `python -m faults.planted BUG ARGUMENTS`.

Every bug is a change to the loaded modules of this one process; nothing in the product knows of it.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from receiver import locks, marks, spill
from receiver.store.sqlite import driver, spilling, store, writer
from reconciler import asking, outbound, schedule


def synchronous(level: str) -> None:
    """The writing connection syncs less than it should."""
    opened = driver.open_writer

    def less(path: Any) -> Any:
        connection = opened(path)
        connection.execute(f"PRAGMA synchronous={level}")
        return connection

    driver.open_writer = less


def acknowledge_first() -> None:
    """A delivery is answered when it has come, and handed to the writer a second later: so long that whoever kills at
    any moment takes some with him. A commit may be over within a millisecond."""
    submit = store.SqliteStore.submit

    def at_once(self: Any, delivery: Any, done: Callable[[Any], object]) -> None:
        asyncio.get_running_loop().call_later(1.0, submit, self, delivery, lambda error: None)
        done(None)

    store.SqliteStore.submit = at_once  # type: ignore[method-assign]  # that is the bug


def no_spill() -> None:
    """Deliveries wait for the database, however long it takes."""
    spilling.Spiller._look = lambda self: 0.05  # type: ignore[method-assign]  # that is the bug


def no_spill_sync() -> None:
    """The journal is written and not synced."""
    vars(spill)["os"] = _Without(os, "fdatasync")


def no_folder_sync() -> None:
    """The names of new journal files are not made durable."""
    spill._sync_folder = lambda folder: None


def answered_errors() -> None:
    """Whatever the database says, the sender hears 200."""

    def careless(self: Any) -> None:
        group = [pending for pending in self._records if not pending.over]
        self._records.clear()
        with contextlib.suppress(Exception):
            self.transact(lambda tx: tx.deliveries.add([pending.delivery for pending in group]))
        self._answer(group)

    writer.Writer.commit_waiting = careless  # type: ignore[method-assign]  # that is the bug


def no_mark() -> None:
    """The high-water mark is never written."""
    marks.HighWaterMark.note = lambda self, last_id, count: None  # type: ignore[method-assign]  # that is the bug


def no_lock() -> None:
    """A second receiver is not kept out."""
    locks.RoleLock.acquire = lambda self: None  # type: ignore[method-assign]  # that is the bug


def follow_redirects() -> None:
    """Whoever answers "elsewhere" is believed."""
    client = outbound.Outbound._client

    def trusting(self: Any, rules: Any) -> Any:
        made = client(self, rules)
        made.follow_redirects = True
        return made

    outbound.Outbound._client = trusting  # type: ignore[method-assign]  # that is the bug


def forget_retry_after() -> None:
    """What a provider asked us to wait is not heard."""
    keep = asking.after_trouble
    vars(asking)["after_trouble"] = lambda state, trouble, now, **rest: replace(
        keep(state, trouble, now, **rest), not_before=None, open_until=None
    )


def no_step_guard() -> None:
    """Nobody looks whether the wall clock was stepped."""
    schedule.STEP_S = float("inf")


def log_let_go() -> None:
    """Nobody keeps the log open while the writer's connection is opened anew."""
    store.SqliteStore._hold_log_open = lambda self, path: None  # type: ignore[method-assign]  # that is the bug


class _Without:
    """A module in which one function does nothing."""

    def __init__(self, module: Any, missing: str) -> None:
        self._module = module
        self._missing = missing

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: None) if name == self._missing else getattr(self._module, name)


BUGS: dict[str, Callable[[], None]] = {
    "synchronous-off": lambda: synchronous("OFF"),
    "synchronous-normal": lambda: synchronous("NORMAL"),
    "acknowledge-first": acknowledge_first,
    "no-spill": no_spill,
    "no-spill-sync": no_spill_sync,
    "no-folder-sync": no_folder_sync,
    "answered-errors": answered_errors,
    "no-mark": no_mark,
    "no-lock": no_lock,
    "log-let-go": log_let_go,
    "follow-redirects": follow_redirects,
    "forget-retry-after": forget_retry_after,
    "no-step-guard": no_step_guard,
}


def plant(names: str) -> None:
    """Break this process in these ways (`a+b`)."""
    for name in filter(None, names.split("+")):
        BUGS[name]()


def main() -> None:
    """Break it and hand over to the command line."""
    plant(sys.argv.pop(1))
    from holdfast.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
