"""The keys of a `standard` source beyond those of the contract: how to send the key, what answers to submissions hold,
and several kinds of job at one sender. Values only; `standard` gives them their meaning.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from receiver.settings_base import Table, wrong
from receiver.settings_standard import Pointer, PollTemplate

_TOKEN = set("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")


def _header(value: str) -> str:
    name = value.lower()
    if not name or len(name) > 100 or not set(name) <= _TOKEN:
        raise wrong("is not the name of an HTTP header", "as in X-Api-Key")
    return name


def _scheme(value: str) -> str:
    if any(not "!" <= letter <= "~" for letter in value):
        met = "holds a blank or a character that no HTTP header can carry"
        raise wrong(met, 'as in "Bearer"; "" sends the key alone')
    return value


Header = Annotated[str, AfterValidator(_header)]
Patterns = Annotated[tuple[str, ...], Field(strict=False)]


class Kind(Table):
    """One kind of job among several that a sender has, told apart by how its ids begin: `kinds.MODALITY = {…}`."""

    id_prefix: Annotated[str, Field(min_length=1)]
    poll_url: PollTemplate | None = None
    """As the source's own `poll_url`, for this kind alone; "" means: never asked."""


class Extras(Table):
    """Keys of a `standard` source beyond those of the contract; a source without them is complete."""

    auth_header: Header = "authorization"
    """The header the `api_key` goes into."""
    auth_scheme: Annotated[str, AfterValidator(_scheme)] = "Bearer"
    """The word before it; "" sends the key alone."""
    timestamp_header: Header | None = None
    """With `verify = "hmac"`: the header with the time that is signed before the body, joined as `sign_format` says."""
    fetch_result: bool = False
    """Webhooks name the outcome only: the result is what the provider answers when asked."""
    kinds: dict[str, Kind] = {}
    poll_result_url_pointer: Pointer | None = None
    """Where a good end's answer says the URL of the result; it is asked too, and must lie on the same origin."""
    submit_paths: Patterns = ("*",)
    """Paths that submit a job when posted to through `/submit/SOURCE/…`, as shell patterns without the first slash."""
    submit_job_id_pointer: Pointer = "/id"
    """Where the answer to a submission has the job's id."""
    submit_poll_url_pointer: Pointer | None = None
    """Where it has the URL to ask at."""
