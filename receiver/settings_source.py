"""One source: every key of `[sources.NAME]`, and what follows from them together with the provider's own facts.

In the file the keys of a source are flat. Here those of the `standard` provider are in `source.standard`, and those
that only one provider declares (its `Settings` model) in `source.extras`. Providers are looked up late, so that this
module can be imported without them. Nothing here reads a file or a secret's value.
"""

import difflib
import re
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic.functional_validators import ModelWrapValidatorHandler
from pydantic_core import InitErrorDetails

from receiver import settings_standard
from receiver.settings_base import (
    BaseUrl,
    Bytes,
    Count,
    CountOrZero,
    DoorSecret,
    Faults,
    KeySecret,
    PathToken,
    PerMinute,
    PushUrl,
    Seconds,
    SecondsOrZero,
    SigningSecret,
    Table,
    line_errors,
    wrong,
)
from receiver.settings_standard import StandardSettings
from receiver.settings_timeouts import DEFAULT_TIMEOUTS, Modality, Timeouts, filled

if TYPE_CHECKING:
    from receiver.providers.base import Provider
    from receiver.settings import ReconcileSettings

Trust = Literal["payload", "known", "verify"]

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+\-.^_`|~]{1,100}")


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value):
        raise wrong("is not the name of an HTTP header", "as in X-Webhook-Secret")
    return value.lower()


def _provider(value: str) -> str:
    from receiver.providers import provider_names

    names = provider_names()
    if value not in names:
        near = difflib.get_close_matches(value.lower(), names, n=1)
        raise wrong("is not a provider", f'did you mean "{near[0]}"?' if near else f"there are: {', '.join(names)}")
    return value


class ReconcileOverrides(Table):
    """The keys of `[reconcile]` as a source may repeat them; None: as `[reconcile]` says."""

    tick_s: Seconds | None = None
    startup_sweep: bool | None = None
    poll_min_s: Seconds | None = None
    poll_max_s: Seconds | None = None
    retry_after_max_s: Seconds | None = None
    http_timeout_s: Seconds | None = None
    max_answer_bytes: Bytes | None = None
    not_yet_s: SecondsOrZero | None = None
    not_found_polls: Count | None = None
    not_found_after_s: SecondsOrZero | None = None
    circuit_open_s: Seconds | None = None
    late_polls: CountOrZero | None = None


_UNTOLD = Timeouts()
"""A modality without a table of its own."""


class SourceSettings(ReconcileOverrides):
    """One configured sender."""

    provider: Annotated[str, AfterValidator(_provider)]
    """The adapter that reads it and asks it."""
    base_url: BaseUrl | None = None
    """The provider's origin, the only one credentials go to; None: the provider's default."""
    api_key: KeySecret | None = None
    path_token: PathToken | None = None
    trust: Trust | None = None
    secret: DoorSecret | None = None
    """What the sender signs with or sends along; several during a rotation."""
    secret_header: Annotated[str, AfterValidator(_header)] | None = None
    """The header that carries the secret or the HMAC; kept in lower case."""
    secret_mode: Literal["equals", "hmac_sha256_hex"] = "equals"  # noqa: S105 - a mode, no secret
    tolerance_s: Seconds = 300.0
    """How far a signed timestamp may be from now, either way."""
    stale_policy: Literal["park", "reject"] = "park"
    """A valid signature with a timestamp outside the tolerance: 200 and quarantined, or 401."""
    sign_format: Literal["dot", "concat"] = "dot"
    key_form: Literal["full", "strip_prefix", "strip_prefix_base64"] = "full"
    polls_per_min: PerMinute | None = None
    """Token bucket for everything asked of this source; None: the provider's own default."""
    hold_s: SecondsOrZero = 900.0
    """A delivery of an unknown job waits so long for its registration."""
    max_held: CountOrZero = 10000
    give_up_after_s: Seconds = 86400.0
    """A job whose provider cannot be reached fails as `unreachable` after so long."""
    adopt_unregistered: bool = True
    bulk_results: Literal["fetch", "list"] = "fetch"
    ack_budget_s: Seconds | None = None
    """Tightens `intake.ack_budget_s`."""
    app_url: PushUrl | None = None
    app_secret: SigningSecret | None = None
    timeouts: dict[Modality, Timeouts] = {}
    """Per modality; `default` is for every modality that neither this table nor the provider names."""

    _name: str = PrivateAttr(default="")
    _standard: StandardSettings | None = PrivateAttr(default=None)
    _extras: BaseModel | None = PrivateAttr(default=None)

    @classmethod
    def named(cls, name: str, **keys: Any) -> Self:
        """A source from plain values, as a test or a demo wants it. Raises pydantic's ValidationError."""
        source = cls.model_validate(keys)
        source._name = name
        return source

    @model_validator(mode="wrap")
    @classmethod
    def _split(cls, value: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        """Hands each key to the table that knows it, and collects the errors of all of them."""
        if not isinstance(value, dict):
            return handler(value)
        keys, parts = _parts(cls, value)
        errors: list[InitErrorDetails] = []
        built: dict[str, BaseModel] = {}
        source: Self | None = None
        for name, (model, own) in parts.items():
            try:
                built[name] = model.model_validate(own, context=info.context)
            except ValidationError as error:
                errors.extend(line_errors(error))
        try:
            source = handler(keys)
        except ValidationError as error:
            errors.extend(line_errors(error))
        if errors or source is None:
            raise ValidationError.from_exception_data("source", errors, hide_input=True)
        standard = built.get("standard")
        source._standard = standard if isinstance(standard, StandardSettings) else None
        source._extras = built.get("extras")
        source._check()
        return source

    def _check(self) -> None:
        """What several keys say together. Raises ValidationError."""
        faults = Faults("source")
        if self.trust == "known" and self.path_token is None:
            faults.add("trust", '"known" needs a path_token', "set path_token, or leave trust out", "path_token")
        if self.trust == "verify" and self.api_key is None:
            faults.add("trust", '"verify" needs an api_key', "set api_key, or leave trust out", "api_key")
        if self.secret is not None and not self.can_check_secret:
            if self._standard is not None:
                faults.add("secret", '`verify = "none"` checks no secret', "remove it, or set verify", "verify")
            else:
                met = f"{self.provider} has no header of its own to look for a secret in"
                faults.add("secret", met, "set secret_header, or remove it and set path_token", "secret_header")
        if self.api_key is not None and self.effective_base_url is None:
            faults.add("base_url", "is required: an api_key goes to one origin alone", "name the provider's URL")
        if self._standard is not None:
            _check_standard(self, self._standard, faults)
        faults.raise_any()

    @property
    def name(self) -> str:
        """NAME of `[sources.NAME]`."""
        return self._name

    @property
    def standard(self) -> StandardSettings | None:
        """The keys of the `standard` provider; None for any other."""
        return self._standard

    @property
    def extras(self) -> BaseModel | None:
        """The keys that this provider's own `Settings` model declares; None when it declares none."""
        return self._extras

    @cached_property
    def facts(self) -> "Provider":
        """The provider adapter."""
        from receiver.providers import provider_named

        return provider_named(self.provider)

    @property
    def can_check_secret(self) -> bool:
        """Whether a secret, if configured, can be checked: a sender that has no header for it needs `secret_header`."""
        if self._standard is not None:
            return self._standard.verify != "none"
        needs_header: bool = getattr(self.facts, "needs_secret_header", not self.facts.signed)
        return self.secret_header is not None or not needs_header

    @property
    def checks_secret(self) -> bool:
        """Whether deliveries are checked against a secret or a signature."""
        return self.secret is not None and self.can_check_secret

    @property
    def effective_base_url(self) -> str | None:
        """Where the provider is asked, without a closing slash; None when nobody said."""
        default = self.facts.default_base_url
        return self.base_url or (default.rstrip("/") if default else None)

    @property
    def effective_polls_per_min(self) -> float:
        """The source's poll budget: its own figure, else the provider's."""
        return self.polls_per_min if self.polls_per_min is not None else self.facts.polls_per_min

    def effective_ack_budget_s(self, intake_ack_budget_s: float) -> float:
        """The time within which a delivery is committed or answered 503: the least of all who have a say."""
        mine = self.ack_budget_s if self.ack_budget_s is not None else intake_ack_budget_s
        return min(mine, intake_ack_budget_s, self.facts.ack_budget_s)

    def effective_trust(self) -> Trust:
        """`trust` as written, else the default of contract section 5."""
        if self.trust is not None:
            return self.trust
        if self.checks_secret:
            return "payload"
        return "known" if self.path_token is not None else "verify"

    def trust_possible(self) -> bool:
        """Whether a terminal claim of a delivery can ever be acted on. If not, such deliveries stay held."""
        trust = self.effective_trust()
        if trust == "known":
            return self.path_token is not None
        return trust == "payload" or self.api_key is not None

    def effective_timeouts(self, modality: str | None) -> tuple[float, float]:
        """(poll_after_s, fail_after_s) for a modality; None is one that nobody told. Always ordered."""
        mine = self.timeouts.get(modality or "default", _UNTOLD)
        known = self.facts.default_timeouts.get(modality or "default")
        if known is None:
            fallback = self.timeouts.get("default", _UNTOLD)
            known = filled(fallback, self.facts.default_timeouts.get("default", DEFAULT_TIMEOUTS))
        return filled(mine, known)

    def reconcile(self, defaults: "ReconcileSettings") -> "ReconcileSettings":
        """`[reconcile]` as it holds for this source. Raises ValidationError when the two contradict each other."""
        mine = {key: getattr(self, key) for key in ReconcileOverrides.model_fields}
        return type(defaults).model_validate(
            defaults.model_dump() | {key: value for key, value in mine.items() if value is not None}
        )


def extras_model(provider: str) -> type[BaseModel] | None:
    """The model of the keys that only this provider declares; None for an unknown provider."""
    from receiver.providers import provider_named, provider_names

    return provider_named(provider).Settings if provider in provider_names() else None


def _parts(
    common: type[BaseModel], value: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[type[BaseModel], dict[str, Any]]]]:
    """The keys every source has, and for each further table its model and its keys."""
    provider = value.get("provider")
    model = extras_model(provider) if isinstance(provider, str) else None
    if model is None:
        named = "provider" in value  # then any other key may be that provider's own: only the name is wrong
        strangers = set(value) - set(common.model_fields) if named else set(StandardSettings.model_fields)
        return {key: each for key, each in value.items() if key not in strangers}, {}
    keys, parts = dict(value), dict[str, tuple[type[BaseModel], dict[str, Any]]]()
    if provider == "standard":
        keys = _with_preset(keys)
        keys.setdefault("verify", "standard-webhooks" if "secret" in keys else "none")
        own = {key: keys.pop(key) for key in StandardSettings.model_fields if key in keys}
        parts["standard"] = (StandardSettings, own)
    names = set(model.model_fields) - set(common.model_fields)
    if names and model is not StandardSettings:
        parts["extras"] = (model, {key: keys.pop(key) for key in names if key in keys})
    return keys, parts


def _with_preset(keys: dict[str, Any]) -> dict[str, Any]:
    """The source's keys over those of its preset; a wrong preset is told by the field itself."""
    name = keys.get("preset")
    if not isinstance(name, str) or name not in settings_standard.preset_names():
        return keys
    given = settings_standard.preset(name)
    merged = {**given, **keys}
    if isinstance(keys.get("timeouts"), dict):
        merged["timeouts"] = {**given.get("timeouts", {}), **keys["timeouts"]}
    return merged


def _check_standard(source: SourceSettings, standard: StandardSettings, faults: Faults) -> None:
    from receiver.providers.base import same_origin

    if standard.verify != "none" and source.secret is None:
        faults.add("verify", f'"{standard.verify}" needs a secret', 'set secret, or verify = "none"', "secret")
    if standard.verify in ("header", "hmac") and source.secret_header is None:
        todo = "set secret_header to the header's name"
        faults.add("verify", f'"{standard.verify}" needs a secret_header', todo, "secret_header")
    if standard.verify not in ("header", "hmac") and source.secret_header is not None:
        met = f'is not used with verify = "{standard.verify}"'
        faults.add("secret_header", met, 'set verify = "header" or "hmac", or remove it', "verify")
    base = source.effective_base_url
    if standard.poll_url.startswith("http") and (base is None or not same_origin(standard.poll_url, base)):
        faults.add("poll_url", "does not lie on the origin of base_url", 'write "{base_url}/…"', "base_url")
