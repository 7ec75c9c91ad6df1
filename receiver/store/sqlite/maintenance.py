"""Looking at a database file, checking it and copying it, from outside the process that owns it."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from receiver.errors import StoreUnavailable
from receiver.store.base import View
from receiver.store.sqlite import driver
from receiver.store.sqlite.driver import sqlite3
from receiver.store.sqlite.views import SqliteView

T = TypeVar("T")
CHECK_S = 2.0
"""How long `check_file` looks at most."""


def look_at(path: Path, look: Callable[[View], T]) -> T:
    """One look at a record that another process may own. Raises StoreUnavailable."""
    if not path.exists():
        raise StoreUnavailable(
            f"reading the database {path}: there is no such file; start `holdfast run`, or `holdfast migrate`"
        )
    connection = driver.open_reader(path)
    try:
        connection.execute("BEGIN")
        return look(SqliteView(connection))
    except sqlite3.Error as error:
        raise StoreUnavailable(
            f"reading the database {path}: {error}; run `holdfast migrate`, or see `holdfast check`"
        ) from error
    finally:
        connection.close()
