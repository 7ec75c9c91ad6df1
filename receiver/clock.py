"""The only place that reads a real clock, and the one way to write a time down.

Inside Holdfast an instant is a `float`: seconds since 1970 in UTC. Deadlines on stored facts are instants of the
wall clock (they must survive a restart); intervals inside one process are measured on the monotonic clock, which
no operator and no time server can step. In the database and in JSON an instant is fixed-width UTC text
(`2026-04-13T14:30:00.000Z`), so that times sort as text.
"""

import email.utils
import re
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

_TEXT = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
LAST_INSTANT = 253402300799.0
"""The end of the year 9999: later instants have no fixed-width text."""


class Clock(Protocol):
    """What code asks for the time. Tests hand in one that stands still until told to move."""

    def now(self) -> float:
        """Wall time, seconds since 1970 UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps; only differences mean anything."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


@lru_cache(maxsize=256)
def text(instant: float) -> str:
    """Write an instant as UTC text with milliseconds, rounded to the nearest; clamped to the years 1970-9999."""
    milliseconds = round(min(max(instant, 0.0), LAST_INSTANT) * 1000)
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=256)
def _second(whole: int) -> str:
    """Many rows are written within one second, and formatting a date costs more than all else about a time."""
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"


@lru_cache(maxsize=2048)
def instant(written: str) -> float:
    """Read ISO 8601 text (any offset; none means UTC) as an instant. Raises ValueError."""
    moment = datetime.fromisoformat(written)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return round(moment.timestamp(), 3)


def is_text(written: str) -> bool:
    """Whether this is exactly our own fixed-width form."""
    return _TEXT.match(written) is not None


def retry_after_s(value: str, now: float) -> float | None:
    """Read a Retry-After value (RFC 9110, 10.2.3): seconds or an HTTP date.

    A date has no fraction, so one second is added: coming back early is the one mistake to avoid; seconds with one,
    which the RFC does not know, are taken for the same reason. Nonsense answers None; a date that is past answers 0.
    """
    value = value.strip()
    if value.isascii() and value.replace(".", "", 1).isdigit():
        return float(value[:12])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    try:
        return max(0.0, moment.timestamp() + 1.0 - now)
    except (OverflowError, OSError):
        return None
