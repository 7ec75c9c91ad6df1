"""When a job is first asked about and when it is given up, per modality.

The order of authority: the source's own figure for the modality, the provider's, the source's `default`, 900 s.
"""

from typing import Annotated, Self

from pydantic import AfterValidator, model_validator

from receiver.settings_base import Faults, Seconds, SecondsOrZero, Table, wrong

DEFAULT_FAIL_AFTER_S = 900.0
"""For a modality that neither the source nor its provider knows (contract, section 10)."""
DEFAULT_POLL_AFTER_S = 300.0
"""A third of it, as the providers' own figures have it for video."""
DEFAULT_TIMEOUTS = (DEFAULT_POLL_AFTER_S, DEFAULT_FAIL_AFTER_S)

_LONGEST_NAME = 64


def _modality(value: str) -> str:
    if not 0 < len(value) <= _LONGEST_NAME or not value.isprintable():
        raise wrong("is not the name of a modality", f"as in timeouts.video; at most {_LONGEST_NAME} characters")
    return value


Modality = Annotated[str, AfterValidator(_modality)]


class Timeouts(Table):
    """When to start asking about a job, and when to give it up. A key left out takes the provider's figure."""

    poll_after_s: SecondsOrZero | None = None
    """No word for so long: start asking."""
    fail_after_s: Seconds | None = None
    """One last question after so long, then `failed`, `stale`."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        faults = Faults("timeouts")
        if self.poll_after_s is not None and self.fail_after_s is not None and self.poll_after_s > self.fail_after_s:
            met = f"asking would begin ({self.poll_after_s:g} s) after the job has failed ({self.fail_after_s:g} s)"
            faults.add("poll_after_s", met, "poll_after_s is at most fail_after_s", "fail_after_s")
        faults.raise_any()
        return self


def filled(mine: Timeouts, known: tuple[float, float]) -> tuple[float, float]:
    """What is left out taken from `known`, moved where it would contradict what was said."""
    poll, fail = mine.poll_after_s, mine.fail_after_s
    if fail is None:
        fail = known[1] if poll is None else max(known[1], poll)
    return (min(known[0], fail) if poll is None else poll), fail
