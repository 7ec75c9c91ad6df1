"""The keys that only `provider = "standard"` understands, and the presets that fill them for well-known senders.

A preset is a TOML file in `receiver/providers/presets/`: keys of a `standard` source, without secrets. What the
source itself says wins over its preset.
"""

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from receiver.settings_base import Faults, Table, wrong

Verify = Literal["standard-webhooks", "header", "hmac", "none"]

_POINTER = re.compile(r"(/([^~/]|~[01])*)*")


def _pointer(value: str) -> str:
    if not _POINTER.fullmatch(value):
        raise wrong("is not a JSON pointer (RFC 6901)", 'as in "/data/id"; "" means the whole document')
    return value


def _template(value: str) -> str:
    hint = 'as in "{base_url}/jobs/{job_id}"; an empty text means: never asked'
    if value and not value.startswith(("{base_url}/", "http://", "https://")):
        raise wrong("must begin with {base_url}/ or with https://", hint)
    rest = value.removeprefix("{base_url}")
    if value and "{job_id}" not in rest:
        raise wrong("must hold {job_id}", hint)
    rest = rest.replace("{job_id}", "")
    if "{" in rest or "}" in rest:
        raise wrong("may hold {base_url} at its beginning, {job_id}, and nothing else in braces", hint)
    if any(letter <= " " or letter == "\\" or letter > "~" for letter in rest):
        raise wrong("holds a blank or a character that a URL must escape", hint)
    return value


def _preset(value: str) -> str:
    names = preset_names()
    if value not in names:
        raise wrong("is not a preset", f"there are: {', '.join(names) or 'none'}")
    return value


def _words(value: tuple[str, ...]) -> tuple[str, ...]:
    if not all(word.strip() for word in value):
        raise wrong("holds an empty word", 'as in ["completed", "succeeded"]')
    return value


Pointer = Annotated[str, AfterValidator(_pointer)]
PollTemplate = Annotated[str, AfterValidator(_template)]
Words = Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_words)]


class StandardSettings(Table):
    """What a `standard` source says of its sender. Words are compared without regard to case."""

    preset: Annotated[str, AfterValidator(_preset)] | None = None
    """A file of defaults for a well-known API; what the source says itself wins."""
    verify: Verify = "none"
    """How the sender proves itself. Left out: `standard-webhooks` where the source has a `secret`, else `none`."""
    event_pointer: Pointer | None = "/type"
    """Where a delivery names its event; a delivery without one is an event without a name."""
    job_id_pointer: Pointer = "/data/id"
    status_pointer: Pointer = "/data/status"
    result_pointer: Pointer | None = None
    """Where the result is; left out: the whole document."""
    completed: Words = ("completed", "complete", "succeeded", "success", "successful", "finished", "done", "ready")
    """Status words of a good end."""
    failed: Words = ("failed", "failure", "error", "errored", "cancelled", "canceled", "expired", "timed_out")
    """Status words of a bad end; any other word means: still running."""
    poll_url: PollTemplate = "{base_url}/jobs/{job_id}"
    """Where to ask about a job registered without a poll URL of its own; "" means: never."""
    poll_status_pointer: Pointer = "/status"
    poll_result_pointer: Pointer | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("standard")
        both = {word.casefold() for word in self.completed} & {word.casefold() for word in self.failed}
        if both:
            met = f'"{min(both)}" stands in both `completed` and `failed`'
            faults.add("failed", met, "a word means one thing", "completed")
        faults.raise_any()
        return self


def preset_names() -> list[str]:
    """The presets that ship, sorted."""
    folder = resources.files("receiver.providers") / "presets"
    if not folder.is_dir():
        return []
    return sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))


def preset(name: str) -> Mapping[str, Any]:
    """The keys a preset gives. Raises KeyError when there is none of that name."""
    if name not in preset_names():
        raise KeyError(name)
    file = resources.files("receiver.providers") / "presets" / f"{name}.toml"
    return tomllib.loads(file.read_text("utf-8"))
