"""Keeps a second receiver or reconciler off the same record: an advisory lock on a file beside the database.

The kernel lets go of it when the process ends, however it ends, so a successor takes over at once.
"""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from receiver.errors import LockHeld, StoreUnavailable


class RoleLock:
    """One role (`receiver`, `reconciler`) on one database. A context manager."""

    def __init__(self, database: Path, role: str) -> None:
        self._path = database.with_name(f"{database.name}.{role}.lock")
        self._role = role
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises LockHeld when another process has it, StoreUnavailable when there can be no file."""
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise StoreUnavailable(
                f"locking {self._path}: {error.strerror}; the folder must exist and be writable"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            self._fd = None
            raise LockHeld(
                f"starting the {self._role}: another one (process {holder}) works on this database; stop it first"
            ) from error
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let go."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def held(database: Path, role: str) -> bool:
    """Whether some process has this role now."""
    lock = RoleLock(database, role)
    try:
        lock.acquire()
    except LockHeld:
        return True
    except StoreUnavailable:
        return False
    lock.release()
    return False
