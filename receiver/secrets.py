"""Secrets: where they come from, who may hold them, and how they are compared.

A secret in the configuration is a reference, `env:NAME`, `file:PATH` or `credential:NAME`, or the secret itself
(`holdfast check` warns). Its values never show in `repr`, `str`, a format, a pickle or a dump. This module never
logs, and reads nothing that the process was not started to hold.
"""

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NoReturn

from pydantic import GetCoreSchemaHandler, ValidationError, ValidationInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from receiver.errors import SecretNotHeld, sentence

Need = Literal["all", "intake", "api", "none"]
"""Which secrets a process holds: every one, those the public door compares with, the API's token alone, or none."""

Shape = Literal["text", "header", "segment"]
"""What a value must be fit for: anything printable, an HTTP header, or one segment of a URL."""

MAX_FILE_BYTES = 65536
_KINDS = ("env", "file", "credential")
_MASK = "********"
_SHAPES: Mapping[str, tuple[re.Pattern[str], str]] = {
    "text": (re.compile(r"[^\x00-\x1f\x7f]+"), "holds a control character, such as a line break"),
    "header": (re.compile(r"[\x21-\x7e]+"), "holds a blank or a character that no HTTP header can carry"),
    "segment": (
        re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9\-._~!$&'()*+,;=:@]+"),
        "holds a character that cannot stand in a URL path; `openssl rand -hex 24` makes a good one",
    ),
}


class SecretProblem(Exception):  # noqa: N818 - becomes a Problem, never a traceback
    """A reference leads nowhere. The message names the reference, never a value."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Place:
    """Where a configuration was read: what its references and relative paths mean."""

    folder: Path = field(default_factory=Path.cwd)
    """The folder of the configuration file."""
    env: Mapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    need: Need = "all"

    @classmethod
    def of(cls, info: ValidationInfo) -> "Place":
        """The place a validation was told of, else this process's own surroundings."""
        return info.context if isinstance(info.context, Place) else cls()


class Secret:
    """One secret with the older values still accepted. Its values never print, and change only by `refresh`."""

    __slots__ = ("_paths", "_references", "_values")

    def __init__(
        self, values: tuple[str, ...] | None, references: tuple[str, ...] = (), paths: tuple[Path, ...] = ()
    ) -> None:
        """`values` None: this process does not hold the secret. `references` has None's place taken by "literal"."""
        self._values = values
        self._references = references or ("literal",)
        self._paths = paths

    @classmethod
    def literal(cls, *values: str) -> "Secret":
        """A secret from its values themselves, the current one first."""
        return cls(values)

    def values(self) -> tuple[str, ...]:
        """All accepted values, the current one first. Raises SecretNotHeld in a process that must not have it."""
        if self._values is None:
            todo = "do this in `holdfast run` or `holdfast reconcile`, which hold it"
            raise SecretNotHeld(sentence("using a secret", f"{self.reference} is not held by this process", todo))
        return self._values

    @property
    def current(self) -> str:
        """The value to send or sign with. Raises SecretNotHeld."""
        return self.values()[0]

    @property
    def is_held(self) -> bool:
        """Whether this process has the values."""
        return self._values is not None

    @property
    def reference(self) -> str:
        """Where it comes from, fit to print: `env:X`, `file:y`, or `literal`; several are joined by commas."""
        return ", ".join(self._references)

    @property
    def references(self) -> tuple[str, ...]:
        """Each reference by itself, fit to print."""
        return self._references

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files behind `file:` references, absolute, in order."""
        return self._paths

    @property
    def is_literal(self) -> bool:
        """Whether a value stands in the configuration itself."""
        return "literal" in self._references

    def matches(self, candidate: bytes) -> bool:
        """Whether `candidate` is one of the values; takes the same time whichever matches, or none."""
        digest = hashlib.sha256(candidate).digest()
        found = False
        for accepted in _digests(self.values()):
            found |= hmac.compare_digest(accepted, digest)
        return found

    def refresh(self) -> bool:
        """Read `file:` references again (a rotation rewrites the file while we run). True when the values changed;
        a file that cannot be read now leaves them as they are."""
        if self._values is None or not self._paths or len(self._paths) != len(self._references):
            return False
        try:
            read = [_read_lines(name, path) for name, path in zip(self._references, self._paths, strict=True)]
        except SecretProblem:
            return False
        values = tuple(value for lines in read for value in lines)
        changed, self._values = values != self._values, values
        return changed

    def __repr__(self) -> str:
        return f"Secret({self.reference}: {_MASK})"

    def __str__(self) -> str:
        return _MASK

    def __format__(self, spec: str) -> str:
        return format(_MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return self._references == other._references and self._values == other._values

    def __hash__(self) -> int:
        return hash(self._references)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


@lru_cache(maxsize=64)
def _digests(values: tuple[str, ...]) -> tuple[bytes, ...]:
    """Of equal length whatever the values are, so that comparing them takes the same time. Once, not for each call."""
    return tuple(hashlib.sha256(value.encode()).digest() for value in values)


@dataclass(frozen=True, slots=True)
class Held:
    """Marks a settings field as a secret: `Annotated[Secret, Held(by="intake", many=True)]`.

    `by`: "intake" when the public door compares with it, "api" when clients of the API need it, else "all". `many`: a
    list is allowed (rotation).
    """

    by: Need = "all"
    shape: Shape = "text"
    many: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        masked = core_schema.plain_serializer_function_ser_schema(lambda secret: secret.reference, when_used="json")
        return core_schema.with_info_plain_validator_function(self._validate, serialization=masked)

    def _validate(self, value: Any, info: ValidationInfo) -> Secret:
        if isinstance(value, Secret):
            return value
        if isinstance(value, list) and self.many:
            return self._validate_list(value, info)
        try:
            return self._one(value, Place.of(info))
        except SecretProblem as problem:
            raise PydanticCustomError(
                "secret", "{message}", {"message": problem.message, "hint": problem.hint}
            ) from None

    def _validate_list(self, listed: list[Any], info: ValidationInfo) -> Secret:
        place, secrets, errors = Place.of(info), list[Secret](), list[InitErrorDetails]()
        for index, value in enumerate(listed):
            try:
                secrets.append(self._one(value, place))
            except SecretProblem as problem:
                detail = PydanticCustomError("secret", "{message}", {"message": problem.message, "hint": problem.hint})
                errors.append(InitErrorDetails(type=detail, loc=(index,), input=None))
        if errors:
            raise ValidationError.from_exception_data("Secret", errors)
        if not secrets:
            raise PydanticCustomError("secret", "{message}", {"message": "is an empty list", "hint": "name a secret"})
        held = None if any(not secret.is_held for secret in secrets) else sum((s.values() for s in secrets), ())
        references = sum((secret.references for secret in secrets), ())
        return Secret(held, references, sum((secret.paths for secret in secrets), ()))

    def _one(self, value: Any, place: Place) -> Secret:
        form = 'write "env:NAME", "file:PATH" or "credential:NAME"'
        if not isinstance(value, str):
            raise SecretProblem("a secret must be text" + (" or a list of texts" if self.many else ""), form)
        if not value:
            raise SecretProblem("a secret cannot be empty", form + ", or leave the key out")
        kind, colon, name = value.partition(":")
        literal = not colon or kind not in _KINDS
        if not literal:
            _check_name(kind, name)
        shown = "literal" if literal else value
        path = _path(kind, name, place) if not literal and kind != "env" else None
        paths = (path,) if kind == "file" and path is not None else ()
        if place.need not in ("all", self.by):
            return Secret(None, (shown,), paths)
        values = (value,) if literal else _read(kind, name, path, place)
        pattern, complaint = _SHAPES[self.shape]
        if not all(pattern.fullmatch(each) for each in values):
            raise SecretProblem(f"{'the secret' if literal else shown} {complaint}", "put a clean value there")
        return Secret(values, (shown,), paths)


def _check_name(kind: str, name: str) -> None:
    if not name or not name.isprintable():
        raise SecretProblem(f'"{kind}:" is not followed by a name', f'write "{kind}:NAME"')
    if kind == "env" and "=" in name:
        raise SecretProblem(f"env:{name} cannot be the name of a variable", "leave out the `=`")
    if kind == "credential" and ("/" in name or name in (".", "..")):
        raise SecretProblem(f"credential:{name} must be a bare name", "systemd credentials have no folders")


def _path(kind: str, name: str, place: Place) -> Path | None:
    """The file behind a reference; None for a credential outside systemd."""
    if kind == "file":
        return place.folder / name
    folder = place.env.get("CREDENTIALS_DIRECTORY", "")
    return Path(folder) / name if folder else None


def _read(kind: str, name: str, path: Path | None, place: Place) -> tuple[str, ...]:
    reference = f"{kind}:{name}"
    if kind == "env":
        value = place.env.get(name)
        if not value:
            met = f"{reference} is not set" if value is None else f"{reference} is empty"
            raise SecretProblem(met, f"set {name} in the environment of this process")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SecretProblem(f"{reference} is not UTF-8 text", "put a clean value there")
        return (value,)
    if path is None:
        todo = f"start under systemd with LoadCredential={name}:…, or use env: or file:"
        raise SecretProblem(f"{reference}: $CREDENTIALS_DIRECTORY is not set", todo)
    return _read_lines(reference, path)


def _read_lines(reference: str, path: Path) -> tuple[str, ...]:
    """The first line is the secret; each further line that is not empty is an older one, still accepted."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        lines = [line.removesuffix("\r") for line in content.decode().split("\n")]
    except UnicodeDecodeError:
        raise SecretProblem(f"{reference} is not UTF-8 text", "write the secret as text, in hex or base64") from None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "cannot be read"
        raise SecretProblem(f"{reference} cannot be read: {why.lower()}", f"look at {path}") from None
    if len(content) > MAX_FILE_BYTES:
        raise SecretProblem(f"{reference} is larger than {MAX_FILE_BYTES} bytes", "is this the right file?")
    if not lines[0]:
        raise SecretProblem(f"{reference} has an empty first line", "the first line is the current secret")
    return (lines[0], *(line for line in lines[1:] if line))
