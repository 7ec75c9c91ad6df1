"""Who may use the private listener: the bearer of the token, or, where none is set, this machine alone.

Without a token the danger is a web page that the operator happens to visit: it can send requests to loopback, under a
name of its own that resolves there. So only loopback `Host` names are answered, and nothing that a browser marks as
coming from elsewhere.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import re
from collections.abc import Sequence

from receiver.secrets import Secret
from reconciler.api.problem import ProblemError

Header = tuple[bytes, bytes]

TOKEN_HEADER = b"x-holdfast-token"
LOCAL = "local"
"""Who did it, where there is no token to tell people apart."""
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::([0-9]{1,5}))?")


class Guard:
    """Judges requests by their headers alone."""

    def __init__(self, token: Secret | None) -> None:
        self._token = token

    def admit(self, headers: Sequence[Header], *, basic: bool) -> str:
        """Let the request in; answers who it is, fit for the record. Raises ProblemError 400, 401 or 403.

        `basic`: the token is also taken as the password of HTTP Basic, so that a browser can show a page."""
        if len(values(headers, b"host")) > 1 or len(values(headers, b"content-length")) > 1:
            raise ProblemError(400, "A header that may come once came twice.")
        host = "".join(values(headers, b"host"))
        who = LOCAL if self._token is None else self._bearer(self._token, headers, basic=basic)
        if self._token is None:
            if not is_loopback_name(host):
                detail = "Without a token only loopback names are answered: localhost, 127.0.0.1 or [::1]."
                raise ProblemError(403, detail)
            if any(site not in ("same-origin", "none") for site in values(headers, b"sec-fetch-site")):
                raise ProblemError(403, "Requests that other sites make are refused.")
        if any(not _same_origin(origin, host) for origin in values(headers, b"origin")):
            raise ProblemError(403, "Requests from another origin are refused.")
        return who

    def _bearer(self, token: Secret, headers: Sequence[Header], *, basic: bool) -> str:
        own, bearer = values(headers, TOKEN_HEADER), values(headers, b"authorization")
        given = own or bearer
        candidate = None
        if len(own) == 1:
            candidate = own[0]
        elif not own and len(bearer) == 1:
            scheme, _, credentials = bearer[0].strip().partition(" ")
            if scheme.lower() == "bearer":
                candidate = credentials.strip()
            elif basic and scheme.lower() == "basic":
                candidate = _password(credentials)
        if candidate is None or not token.matches(candidate.encode("latin-1", "replace")):
            detail = "The token is wrong." if given else "A token is needed: Authorization: Bearer TOKEN."
            offered = 'Bearer realm="holdfast"' + (', Basic realm="holdfast", charset="UTF-8"' if basic else "")
            raise ProblemError(401, detail, {"www-authenticate": offered})
        return _named(token, candidate)

    def is_own(self, authorization: bytes) -> bool:
        """Whether an Authorization value is our own token, in whichever form: it is never sent to a provider."""
        if self._token is None:
            return False
        value = authorization.strip()
        scheme, _, credentials = value.partition(b" ")
        forms = [value, credentials.strip()]
        if scheme.lower() == b"basic":
            password = _password(credentials.decode("latin-1"))
            forms.append((password or "").encode("latin-1", "replace"))
        return any(self._token.matches(form) for form in forms)


def values(headers: Sequence[Header], name: bytes) -> list[str]:
    """Every value of a header, by lower-case name."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def is_loopback_name(host: str) -> bool:
    """Whether a Host value names this machine: localhost, 127.0.0.0/8 or [::1], with any port."""
    found = _HOST.fullmatch(host)
    if found is None:
        return False
    name = found[1].lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _same_origin(origin: str, host: str) -> bool:
    scheme, _, netloc = origin.strip().lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme)
    if port is None:
        return False
    return netloc.removesuffix(port) == host.lower().removesuffix(port)


def _password(credentials: str) -> str | None:
    try:
        decoded = base64.b64decode(credentials.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return None
    return decoded.partition(":")[2]


def _named(token: Secret, candidate: str) -> str:
    """Which token it was, by where the configuration finds it; never the token itself."""
    held, references = token.values(), token.references
    digest = hashlib.sha256(candidate.encode()).digest()
    if len(held) == len(references) > 1:
        for value, reference in zip(held, references, strict=True):
            if hmac.compare_digest(hashlib.sha256(value.encode()).digest(), digest):
                return f"token {reference}"
    return f"token {token.reference}"
