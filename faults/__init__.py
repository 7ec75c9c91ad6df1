"""Faults against the running product, from outside: what is acknowledged must be kept, what is known must be told.

Each module is one kind of fault and one function that does it and says what it saw (`Result`). `tests/faults/` calls
them in their short form, `python -m faults` in their long form. What is broken on purpose stands in `planted.py` and
never in the product.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Result:
    """What one scenario saw."""

    scenario: str
    figures: dict[str, object] = field(default_factory=dict)
    """What was measured, by name; times in seconds."""
    faults: list[str] = field(default_factory=list)
    """What did not hold; empty when all did."""

    def must(self, holds: object, otherwise: str) -> None:
        """Note a fault unless it holds."""
        if not holds:
            self.faults.append(otherwise)


class NotMeasured(Exception):  # noqa: N818 - not an error: the machine lacks what the scenario needs
    """The scenario cannot be done on this machine; the text says why. It counts neither as passed nor as failed."""
