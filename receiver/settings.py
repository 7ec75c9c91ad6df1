"""Every table of the configuration with its keys, units, bounds and defaults; `config.example.toml` shows them all.

Plain frozen values: this module reads no file and knows no TOML (`config.py` does). A setting may be built from
plain values in a test; what the tables say together is checked here too.
"""

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, PrivateAttr, ValidationError, field_validator, model_validator

from receiver.addresses import Listen, parse_listen, store_path
from receiver.errors import UsageError, sentence
from receiver.settings_base import (
    BaseUrl,
    Bytes,
    BytesOrZero,
    Count,
    CountOrZero,
    Days,
    Faults,
    FolderText,
    ListenText,
    PushUrl,
    Seconds,
    SecondsOrZero,
    Share,
    SigningSecret,
    StoreUrl,
    Table,
    TokenSecret,
    wrong,
)
from receiver.settings_source import ReconcileOverrides, SourceSettings
from receiver.settings_standard import StandardSettings
from receiver.settings_timeouts import Timeouts

__all__ = [
    "AlertSettings",
    "ApiSettings",
    "AppSettings",
    "IntakeSettings",
    "ReconcileOverrides",
    "ReconcileSettings",
    "RetentionSettings",
    "Settings",
    "SourceSettings",
    "StandardSettings",
    "StoreSettings",
    "Timeouts",
]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def _source_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise wrong("is not a name for a source", "it becomes part of a URL: letters, digits, _ and -, at most 64")
    return value


SourceName = Annotated[str, AfterValidator(_source_name)]


class StoreSettings(Table):
    """`[store]`: the database and the spill journal beside it."""

    url: StoreUrl = Field(default="sqlite:///holdfast.db", validate_default=True)
    """Relative to the configuration file's folder; four slashes make it absolute."""
    spill_dir: FolderText | None = None
    """The journal's folder; None: beside the database, its name with `-spill` behind it."""
    spill_max_bytes: BytesOrZero = 1 << 30
    """The journal never grows past this; what does not fit is answered 503."""
    spill_after_s: Seconds = 1.0
    """A delivery that the database did not take in this time goes to the journal."""

    @property
    def path(self) -> Path:
        """The database file."""
        return store_path(self.url)

    @property
    def spill_path(self) -> Path:
        """The folder of the spill journal."""
        return Path(self.spill_dir) if self.spill_dir else self.path.with_name(f"{self.path.name}-spill")


class IntakeSettings(Table):
    """`[intake]`: the public listener."""

    listen: ListenText = "127.0.0.1:8080"
    public_url: BaseUrl | None = None
    """How the world reaches this listener; what `source setup` registers."""
    ack_budget_s: Seconds = 4.0
    """Commit or answer 503 within this."""
    max_body_bytes: Bytes = 5_242_880
    header_timeout_s: Seconds = 10.0
    body_timeout_s: Seconds = 10.0
    max_connections: Count = 10_000
    max_waiting_bytes: Bytes = 67_108_864
    """All bodies in flight together."""

    @property
    def address(self) -> Listen:
        """`listen`, taken apart."""
        return parse_listen(self.listen)

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("intake")
        if self.max_waiting_bytes < self.max_body_bytes:
            met = f"is less than max_body_bytes ({self.max_body_bytes}): the largest body could never be taken"
            faults.add("max_waiting_bytes", met, "make it a multiple of max_body_bytes", "max_body_bytes")
        faults.raise_any()
        return self


class ApiSettings(Table):
    """`[api]`: the private listener, for the application and the operator."""

    listen: ListenText = "127.0.0.1:8081"
    token: TokenSecret | None = None
    """The bearer token; a list while one is replaced by another."""

    @property
    def address(self) -> Listen:
        """`listen`, taken apart."""
        return parse_listen(self.listen)

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("api")
        if self.token is None and not self.address.is_private:
            met = "is required when listen is neither loopback nor a unix socket"
            faults.add("token", met, 'set token = "env:HOLDFAST_API_TOKEN", or listen on 127.0.0.1', "listen")
        faults.raise_any()
        return self


class AppSettings(Table):
    """`[app]`: where messages are pushed. Absent: the application pulls."""

    url: PushUrl
    secret: SigningSecret | None = None
    """Signs each push with Standard Webhooks; with several, each of them signs."""
    timeout_s: Seconds = 15.0
    max_attempts: Count = 12
    retry_first_s: Seconds = 5.0
    """The wait after the first failure; it grows from there, with jitter."""
    retry_max_s: Seconds = 43_200.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("app")
        if self.retry_first_s > self.retry_max_s:
            met = f"is more than retry_max_s ({self.retry_max_s:g})"
            faults.add("retry_first_s", met, "the waits grow from the first to the longest", "retry_max_s")
        faults.raise_any()
        return self


class RetentionSettings(Table):
    """`[retention]`: how long finished things are kept. What is still owed to anyone is never pruned."""

    deliveries_days: Days = 30.0
    """From `received_at`. A deduplication key outlives its body while its sender may still repeat itself."""
    messages_days: Days = 30.0
    """From delivery; a dead one from its last attempt."""
    jobs_days: Days = 90.0
    """From `settled_at`, with the job's history: longest, because questions about outcomes come late."""
    polls_days: Days = 30.0


class ReconcileSettings(Table):
    """`[reconcile]`: how the reconciler asks. Each key may stand in a source too, and rules there."""

    tick_s: Seconds = Field(default=1.0, ge=0.01)
    """How often due work is looked for."""
    startup_sweep: bool = True
    """Ask about every open job once after a start."""
    poll_min_s: Seconds = 5.0
    """The first wait between two questions about one job; widening starts here."""
    poll_max_s: Seconds = 300.0
    """Widening ends here."""
    retry_after_max_s: Seconds = 300.0
    """A provider's Retry-After is believed up to this."""
    http_timeout_s: Seconds = 10.0
    max_answer_bytes: Bytes = 5_242_880
    not_yet_s: SecondsOrZero = 60.0
    """A 404 this soon after the submission means: not yet."""
    not_found_polls: Count = 3
    not_found_after_s: SecondsOrZero = 300.0
    """So many 404s over at least so long: `failed`, `not_found`."""
    circuit_open_s: Seconds = 30.0
    """A provider in trouble is left alone this long."""
    late_polls: CountOrZero = 3
    """Widening questions about a stale job, over a day, to catch late truth."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("reconcile")
        if self.poll_min_s > self.poll_max_s:
            met = f"is more than poll_max_s ({self.poll_max_s:g})"
            faults.add("poll_min_s", met, "polls widen from poll_min_s to poll_max_s", "poll_max_s")
        faults.raise_any()
        return self


class AlertSettings(Table):
    """`[alerts]`: when the application hears that webhooks are lost on the way."""

    webhook_loss_share: Share = 0.5
    """More than this share of settled jobs had to be asked for; 1 never alerts."""
    webhook_loss_window_s: Seconds = 3600.0
    webhook_loss_min_jobs: Count = 50
    """Fewer settled jobs in the window prove nothing."""


class Settings(Table):
    """The whole configuration."""

    store: StoreSettings = StoreSettings()
    intake: IntakeSettings = IntakeSettings()
    api: ApiSettings = ApiSettings()
    app: AppSettings | None = None
    retention: RetentionSettings = RetentionSettings()
    reconcile: ReconcileSettings = ReconcileSettings()
    alerts: AlertSettings = AlertSettings()
    sources: dict[SourceName, SourceSettings] = {}

    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The file these settings were read from; None when they were built from plain values."""
        return self._file

    def source(self, name: str) -> SourceSettings:
        """The source of this name. Raises UsageError naming the nearest one."""
        if name in self.sources:
            return self.sources[name]
        near = difflib.get_close_matches(name, self.sources, n=1)
        todo = f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(self.sources) or 'none'}"
        raise UsageError(sentence("looking for a source", f"[sources.{name}] is not configured", todo))

    def app_for(self, source: SourceSettings) -> AppSettings | None:
        """Where this source's messages are pushed: its own `app_url` and `app_secret` over `[app]`; None: pulled."""
        mine: dict[str, object] = {}
        if source.app_url is not None:
            mine["url"] = source.app_url
        if source.app_secret is not None:
            mine["secret"] = source.app_secret
        if self.app is not None:
            return self.app.model_copy(update=mine)
        return AppSettings.model_validate(mine) if source.app_url is not None else None

    @model_validator(mode="before")
    @classmethod
    def _store_always(cls, raw: Any) -> Any:
        """An absent [store] is read too: its default path lies in the configuration file's folder."""
        return {"store": {}, **raw} if isinstance(raw, dict) else raw

    @field_validator("sources", mode="after")
    @classmethod
    def _named(cls, sources: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name, source in sources.items():
            source._name = name
        return sources

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("settings")
        if self.intake.address.clashes(self.api.address):
            met = f"is taken by intake.listen ({self.intake.listen})"
            faults.add(("api", "listen"), met, "the private listener needs an address of its own", "intake.listen")
        for name, source in self.sources.items():
            at = f"sources.{name}"
            if source.ack_budget_s is not None and source.ack_budget_s > self.intake.ack_budget_s:
                met = f"is more than intake.ack_budget_s ({self.intake.ack_budget_s:g})"
                todo = "a source may only tighten it"
                faults.add(("sources", name, "ack_budget_s"), met, todo, "intake.ack_budget_s")
            try:
                source.reconcile(self.reconcile)
            except ValidationError:
                met = "poll_min_s would be more than poll_max_s here, together with [reconcile]"
                key = "poll_min_s" if source.poll_min_s is not None else "poll_max_s"
                involved = (f"{at}.poll_min_s", f"{at}.poll_max_s", "reconcile.poll_min_s", "reconcile.poll_max_s")
                faults.add(("sources", name, key), met, "set both in the source", *involved)
        faults.raise_any()
        return self
