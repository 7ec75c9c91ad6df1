"""Faults to order, and the dice that decide whom they hit.

Owns the list of faults (`Faults`, the one source for the command line, the control API and the docs) and the drawing
of a fate. Never sends, answers or waits: `sender.py` and `gate.py` act on what is drawn here.

Every draw comes from a generator of its own, named after the thing it is for (seed, provider, job number), and always
rolls all dice in the same order. So the fate of job 17 does not depend on timing, on the order of answers, or on the
share of any other fault.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

ApiScope = Literal["read", "submit", "all"]
RetryAfter = Literal["provider", "seconds", "date", "none"]


def _share(meaning: str, group: str) -> Any:  # a dataclass field; the annotation beside it gives the type
    return field(default=0.0, metadata={"help": meaning, "group": group})


@dataclass(frozen=True, slots=True)
class Faults:
    """Which share (0 to 1) of webhooks, jobs and API requests meets which fault, and how each fault behaves.

    Webhook and job faults are decided when a job is submitted, API faults when a request comes in.
    Raises ValueError for a share outside 0..1, a negative time or an unknown word.
    """

    drop: float = _share("webhook never sent", "webhook")
    duplicate: float = _share("webhook sent twice", "webhook")
    delay: float = _share("webhook sent late, by delay_s", "webhook")
    reorder: float = _share("webhook held back until another one has gone out (at most reorder_s)", "webhook")
    early: float = _share("job ends at once and its webhook goes out before the submit answer", "job")
    forged: float = _share("one more webhook from a stranger: a made-up job, or a lie about this one", "job")
    wrong_id: float = _share("webhook names a job that does not exist; the real one is never announced", "webhook")
    malformed: float = _share("webhook body is broken JSON, no JSON, an array, empty or bad UTF-8", "webhook")
    slow: float = _share("webhook body dribbles in over slow_s", "webhook")
    hang: float = _share("first attempt of a webhook stops in mid-body and never completes", "webhook")
    stale: float = _share("webhook signed with a time stale_s ago (signing providers only)", "webhook")
    stuck: float = _share("job does not end before stuck_s (by default never)", "job")

    api_error_5xx: float = _share("request answered 500 or 503", "api")
    api_rate_limited: float = _share("request answered 429, with Retry-After as retry_after says", "api")
    api_slow: float = _share("answer takes api_slow_s", "api")
    api_hang: float = _share("no answer for api_hang_s", "api")
    api_malformed: float = _share("answer is HTML, cut off, empty or an array", "api")
    api_huge: float = _share("answer is api_huge_bytes long", "api")
    api_redirect: float = _share("request redirected to a trap that counts who follows", "api")
    api_unknown_word: float = _share("every status in the answer is a word nobody has heard", "api")
    api_wrong_id: float = _share("answer about another job than the one asked for", "api")
    api_not_found: float = _share("request answered 404 although the job exists", "api")
    api_unauthorized: float = _share("request answered 401 although the key is good", "api")
    api_payment_required: float = _share("request answered 402", "api")
    api_forbidden: float = _share("request answered 403", "api")
    submit_lost: float = _share("job is accepted, but its submit answer is a 502", "api")

    duplicate_gap_s: float = 0.05
    delay_s: tuple[float, float] = (0.5, 2.0)
    reorder_s: float = 1.0
    forged_lie: float = 0.5
    """Share of forgeries that lie about the real job; the others name a job that does not exist."""
    forged_knows_url: bool = False
    """Whether a liar knows the whole webhook URL; otherwise the last path segment (the token) is a guess."""
    slow_s: float = 1.0
    hang_s: float = 15.0
    stale_s: float = 3600.0
    stuck_s: float = math.inf
    api_scope: ApiScope = "read"
    """Which requests the API faults hit: reading status, submitting, or all."""
    api_slow_s: float = 1.0
    api_hang_s: float = 30.0
    api_huge_bytes: int = 8 * 1024 * 1024
    retry_after: RetryAfter = "provider"
    """How a 429 names its wait: as this provider documents it, in seconds, as an HTTP date, or not at all."""
    retry_after_s: int = 1

    def __post_init__(self) -> None:
        for name in (*SHARES, "forged_lie"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, not {getattr(self, name)!r}")
        for name in ("duplicate_gap_s", "reorder_s", "slow_s", "hang_s", "stale_s", "stuck_s"):
            _not_negative(name, getattr(self, name))
        for name in ("api_slow_s", "api_hang_s", "api_huge_bytes", "retry_after_s"):
            _not_negative(name, getattr(self, name))
        if not 0.0 <= self.delay_s[0] <= self.delay_s[1]:
            raise ValueError(f"delay_s must be a range from small to large, not {self.delay_s!r}")
        if self.api_scope not in get_args(ApiScope):
            raise ValueError(f"api_scope must be one of {', '.join(get_args(ApiScope))}, not {self.api_scope!r}")
        if self.retry_after not in get_args(RetryAfter):
            raise ValueError(f"retry_after must be one of {', '.join(get_args(RetryAfter))}, not {self.retry_after!r}")

    def changed(self, changes: Mapping[str, Any]) -> "Faults":
        """A copy with these fields changed, as they come from JSON or the command line. Raises ValueError."""
        known = {one.name for one in fields(self)}
        unknown = sorted(set(changes) - known)
        if unknown:
            raise ValueError(f"unknown fault {unknown[0]!r}; known are {', '.join(sorted(known))}")
        given: dict[str, Any] = {}
        for name, value in changes.items():
            given[name] = _coerced(name, value, getattr(self, name))
        return replace(self, **given)

    def as_dict(self) -> dict[str, Any]:
        """All fields as JSON values; a stuck_s without end is null."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["delay_s"] = list(self.delay_s)
        values["stuck_s"] = None if math.isinf(self.stuck_s) else self.stuck_s
        return values


def _not_negative(name: str, value: float) -> None:
    if math.isnan(value) or value < 0:
        raise ValueError(f"{name} must not be negative, not {value!r}")


def _coerced(name: str, value: Any, example: Any) -> Any:
    """Bring a JSON value to the type the field has. Raises ValueError."""
    if name == "stuck_s" and value is None:
        return math.inf
    try:
        if isinstance(example, tuple):
            low, high = value
            return (float(low), float(high))
        if isinstance(example, bool) or isinstance(value, bool):
            if not (isinstance(example, bool) and isinstance(value, bool)):
                raise TypeError
            return value
        if isinstance(example, str):
            if not isinstance(value, str):
                raise TypeError
            return value
        return type(example)(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{name} cannot be {value!r}") from error


HELP: dict[str, str] = {one.name: one.metadata["help"] for one in fields(Faults) if "help" in one.metadata}
SHARES: tuple[str, ...] = tuple(HELP)
_GROUP = {one.name: one.metadata["group"] for one in fields(Faults) if "group" in one.metadata}
WEBHOOK_FAULTS: tuple[str, ...] = tuple(name for name in SHARES if _GROUP[name] == "webhook")
JOB_FAULTS: tuple[str, ...] = tuple(name for name in SHARES if _GROUP[name] == "job")
API_FAULTS: tuple[str, ...] = tuple(name for name in SHARES if _GROUP[name] == "api")


@dataclass(frozen=True, slots=True)
class Fate:
    """What was drawn for one job, one webhook or one request. `"drop" in fate` asks for one fault."""

    hits: frozenset[str]
    spot: float
    """A point in 0..1: where in its range a delay lies, when in a job's life a forgery arrives."""
    lie: bool
    """Whether a forgery is about the real job."""
    twist: int
    """Dice for choices among kinds of one fault."""

    def __contains__(self, fault: str) -> bool:
        return fault in self.hits


NO_FATE = Fate(frozenset(), 0.0, False, 0)


def draw(rng: random.Random, faults: Faults, names: tuple[str, ...]) -> Fate:
    """Roll for each of these faults, always as many dice in the same order, whatever the shares are."""
    hits = frozenset(name for name in names if rng.random() < getattr(faults, name))
    return Fate(hits, rng.random(), rng.random() < faults.forged_lie, rng.getrandbits(32))
