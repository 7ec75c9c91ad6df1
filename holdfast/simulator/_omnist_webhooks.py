"""Omnist's webhook management: the workspace's one target, its signing secrets, tests, the delivery log.

Owns the state behind `/v1/webhooks` and the signature. The record of the delivery log is not documented; it carries
the fields of a test delivery, one record an attempt. Loopback targets may be plain http here, others may not.
"""

import hashlib
import hmac
import math
import random
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from holdfast.simulator.sender import Webhook
from holdfast.simulator.truth import Attempt
from receiver import clock as clocks

PAGE_SIZE = 50
TEST_EVENT = "webhook.test"
SignFormat = Literal["dot", "concat"]
KeyForm = Literal["full", "strip_prefix", "strip_prefix_base64"]


class WrongTargetError(ValueError):
    """The target is refused; the message says why."""


@dataclass(slots=True)
class Secret:
    """One signing secret and its number."""

    value: str
    version: int
    replaced_at: float = math.inf

    def shown(self) -> dict[str, Any]:
        """What later reads show: a preview."""
        return {"version": self.version, "preview": f"{self.value[:6]}...{self.value[-4:]}"}


class Target:
    """Where webhooks go, and what signs them."""

    def __init__(self, seed: str, secret: str | None) -> None:
        """`seed` names the draws of secrets; `secret` is the first one, if it is given."""
        self._seed = seed
        self.enabled = True
        self.told = secret is not None
        """Whether somebody was given a secret; the API tells one only when it is new."""
        self.secrets: list[Secret] = [] if secret is None else [Secret(secret, 1)]

    @property
    def secret(self) -> Secret:
        """The active secret, made on first use."""
        if not self.secrets:
            self.rotate(0.0)
        return self.secrets[-1]

    def rotate(self, now: float) -> Secret:
        """A new active secret; the old one is remembered with its end."""
        version = len(self.secrets) + 1
        if self.secrets:
            self.secrets[-1].replaced_at = now
        rng = random.Random(f"{self._seed}:secret:{version}")
        self.secrets.append(Secret(f"whsec_{rng.getrandbits(160):040x}", version))
        return self.secrets[-1]

    def signing(self, now: float, overlap_s: float) -> list[str]:
        """The secrets that sign now: the active one, and old ones replaced less than `overlap_s` ago."""
        old = [one.value for one in self.secrets[:-1] if now - one.replaced_at < overlap_s]
        return [self.secret.value, *old]


def checked(url: Any) -> str:
    """A target URL: https, without credentials; loopback may be http. Raises WrongTargetError."""
    if not isinstance(url, str):
        raise WrongTargetError("url must be text")
    try:
        parts = urlsplit(url)
        host, credentials = parts.hostname or "", parts.username or parts.password
    except ValueError as error:
        raise WrongTargetError("url cannot be read") from error
    loopback = host in ("localhost", "::1") or host.startswith("127.")
    if not host or credentials or not (parts.scheme == "https" or (parts.scheme == "http" and loopback)):
        raise WrongTargetError("url must be public https without credentials")
    return url


def signature(secrets: Sequence[str], raw: bytes, t: int, sign_format: SignFormat, key_form: KeyForm) -> str:
    """`t=…,v1=…` with one v1 for each secret."""
    message = str(t).encode() + (b"." if sign_format == "dot" else b"") + raw
    digests = [hmac.new(_key(secret, key_form), message, hashlib.sha256).hexdigest() for secret in secrets]
    return ",".join([f"t={t}", *(f"v1={digest}" for digest in digests)])


def _key(secret: str, form: KeyForm) -> bytes:
    if form == "full":
        return secret.encode()
    bare = secret.removeprefix("whsec_")
    return b64decode(bare) if form == "strip_prefix_base64" else bare.encode()


def record(webhook: Webhook, number: int, attempt: Attempt, accepts: Callable[[int], bool]) -> dict[str, Any]:
    """One attempt as the API shows it; ids are spelled otherwise than in the headers."""
    good = attempt.http_status is not None and accepts(attempt.http_status)
    return {
        "id": f"delivery_{webhook.delivery_id}",
        "event_id": f"event_{webhook.event_id}",
        "event_type": webhook.event,
        "delivery_status": "succeeded" if good else "failed",
        "attempt_count": number,
        "last_http_status": attempt.http_status,
        "attempted_at": clocks.text(attempt.at),
    }


def attempts(log: Sequence[Webhook], accepts: Callable[[int], bool]) -> list[dict[str, Any]]:
    """Every attempt so far, newest first. What got lost on the way is a failed attempt to its sender."""
    rows: list[tuple[float, dict[str, Any]]] = []
    for webhook in log:
        for number, attempt in enumerate(webhook.attempts, start=1):
            rows.append((attempt.at, record(webhook, number, attempt, accepts)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0], reverse=True)]


def between(rows: list[dict[str, Any]], start: float | None, end: float | None) -> list[dict[str, Any]]:
    """The rows attempted from `start` on and before `end`."""
    return [
        row
        for row in rows
        if (start is None or clocks.instant(row["attempted_at"]) >= start)
        and (end is None or clocks.instant(row["attempted_at"]) < end)
    ]


def stats(rows: list[dict[str, Any]], bucket_minutes: int) -> list[dict[str, Any]]:
    """Attempts counted by time bucket and outcome, oldest first."""
    counts: Counter[tuple[float, str]] = Counter()
    for row in rows:
        size_s = bucket_minutes * 60
        bucket = math.floor(clocks.instant(row["attempted_at"]) / size_s) * size_s
        counts[bucket, row["delivery_status"]] += 1
    return [
        {"bucket_start": clocks.text(bucket), "delivery_status": status, "attempt_count": count}
        for (bucket, status), count in sorted(counts.items())
    ]
