"""What is legal in a configuration but worth a word: `holdfast check` prints it, the start logs it.

Never names a value of a secret.
"""

import base64
import binascii
from collections.abc import Iterator

from pydantic import BaseModel

from receiver.addresses import is_plain_http_off_loopback
from receiver.secrets import Secret
from receiver.settings import Settings, SourceSettings

SHORT_TOKEN_LENGTH = 16
"""Path tokens below this can be found by trying."""


def secrets_of(settings: Settings) -> Iterator[tuple[str, Secret]]:
    """Every configured secret with the dotted path of its key."""
    for table in ("api", "app"):
        yield from _in(table, getattr(settings, table))
    for name, source in settings.sources.items():
        for part in (source, source.standard, source.extras):
            yield from _in(f"sources.{name}", part)


def _in(path: str, table: BaseModel | None) -> Iterator[tuple[str, Secret]]:
    if table is not None:
        for key in type(table).model_fields:
            value = getattr(table, key)
            if isinstance(value, Secret):
                yield f"{path}.{key}", value


def warnings(settings: Settings) -> list[str]:
    """One sentence each, in the order of the file; empty when there is nothing to say."""
    found = [
        f"{path}: a literal secret stands in the file itself; move it to env:, file: or credential:"
        for path, secret in secrets_of(settings)
        if secret.is_literal
    ]
    if settings.intake.public_url and is_plain_http_off_loopback(settings.intake.public_url):
        found.append("intake.public_url: plain http; path tokens and results can be read on the way, use https")
    if settings.app is not None and settings.app.secret is None:
        found.append("app.secret: missing; the application cannot tell our pushes from anyone else's")
    if settings.app is not None and settings.app.secret is not None:
        found.extend(_signing("app.secret", settings.app.secret))
    if not settings.sources:
        found.append("sources: there are none; every delivery is answered 404")
    for source in settings.sources.values():
        found.extend(f"sources.{source.name}{text}" for text in _of_source(source, settings))
    return found


def _of_source(source: SourceSettings, settings: Settings) -> Iterator[str]:
    if not source.checks_secret and source.path_token is None:
        yield ".path_token: missing, and nothing else proves the sender; anyone who finds the URL can post"
    token = source.path_token
    if token is not None and token.is_held and min(map(len, token.values())) < SHORT_TOKEN_LENGTH:
        yield f".path_token: shorter than {SHORT_TOKEN_LENGTH} characters; it can be found by trying"
    if not source.trust_possible():
        trust = source.effective_trust()
        yield f'.trust: "{trust}" by default and without an api_key; deliveries stay held, set path_token or api_key'
    if source.trust == "payload" and not source.checks_secret:
        yield '.trust: "payload" without a secret; whatever is posted here is believed'
    if source.api_key is None:
        yield ".api_key: missing; the provider cannot be asked, a lost webhook ends in a deadline"
    base_url = source.effective_base_url
    if base_url is not None and is_plain_http_off_loopback(base_url):
        yield ".base_url: plain http; the api_key can be read on the way, use https"
    app = settings.app_for(source)
    if source.app_url is not None and app is not None and app.secret is None:
        yield ".app_url: pushes are not signed; set app_secret or app.secret"
    if source.app_secret is not None:
        yield from _signing(".app_secret", source.app_secret)
    budget_s = source.effective_ack_budget_s(settings.intake.ack_budget_s)
    if settings.store.spill_after_s >= budget_s:
        yield f".ack_budget_s: {budget_s:g} s is not above store.spill_after_s; a busy database means 503"


def _signing(path: str, secret: Secret) -> Iterator[str]:
    """Standard Webhooks keys are `whsec_` and the base64 of 24 to 64 bytes; verifiers refuse others."""
    if secret.is_held and not all(_is_signing_key(value) for value in secret.values()):
        yield f"{path}: not `whsec_` and the base64 of 24 to 64 bytes; Standard Webhooks libraries may refuse it"


def _is_signing_key(value: str) -> bool:
    try:
        return value.startswith("whsec_") and 24 <= len(base64.b64decode(value[6:], validate=True)) <= 64
    except (binascii.Error, ValueError):
        return False
