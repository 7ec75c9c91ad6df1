"""What the benchmark found: figures with their reach, and the arithmetic of rounds.

A ratio is the median of the ratios of neighbouring rounds, never of two averages: machines drift, and both sides of a
round drift together. Figures that could not be measured say why; they are never folded into those that were.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One number and what it should be."""

    name: str
    value: float | None
    """None: not measured, and `note` says why."""
    unit: str
    reach: str = ""
    """What is wanted, in words; empty where the figure only explains another."""
    reached: bool | None = None
    low: float | None = None
    high: float | None = None
    """The spread over the rounds."""
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The figure as the results file has it."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Section:
    """The figures of one question."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    series: dict[str, list[float]] = field(default_factory=dict)
    """Values in order, to be drawn."""

    def as_json(self) -> dict[str, Any]:
        """The section as the results file has it."""
        figures = [figure.as_json() for figure in self.figures]
        return {"name": self.name, "title": self.title, "figures": figures, "series": self.series}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done."""

    folder: Path
    """An empty folder on the disk that is measured."""
    full: bool = False
    scale: float = 1.0
    """Seconds and row counts are multiplied by this; the smoke test uses a small one."""
    say: Callable[[str], None] = lambda line: None

    def seconds(self, short: float, full: float) -> float:
        """How long to load."""
        return (full if self.full else short) * self.scale

    def count(self, short: int, full: int) -> int:
        """How many rows or rounds."""
        return max(1, round((full if self.full else short) * self.scale))


def ratios_by_part(first: Sequence[float], second: Sequence[float], each: int) -> list[float]:
    """Of two series that were measured in turn: the ratio of their medians, for every so many values. What drifts
    within a part drifts in both."""
    parts = [slice(at, at + each) for at in range(0, len(first), each)]
    return [statistics.median(first[part]) / statistics.median(second[part]) for part in parts]


def at_least(name: str, values: Sequence[float], unit: str, reach: float, note: str = "") -> Figure:
    """The median of some values that should not be less than `reach`."""
    middle = statistics.median(values)
    return _spread(name, values, unit, f"≥ {reach:g}", reached=middle >= reach, note=note)


def at_most(name: str, values: Sequence[float], unit: str, reach: float, note: str = "") -> Figure:
    """The median of some values that should not be more than `reach`."""
    middle = statistics.median(values)
    return _spread(name, values, unit, f"≤ {reach:g}", reached=middle <= reach, note=note)


def plain(name: str, values: Sequence[float], unit: str, note: str = "") -> Figure:
    """The median of some values nothing is asked of."""
    return _spread(name, values, unit, "", reached=None, note=note)


def skipped(name: str, why: str, reach: str = "") -> Figure:
    """A figure that was not measured."""
    return Figure(name, None, "", reach, None, note=f"not measured: {why}")


def _spread(name: str, values: Sequence[float], unit: str, reach: str, *, reached: bool | None, note: str) -> Figure:
    middle = statistics.median(values)
    several = len(values) > 1
    return Figure(
        name,
        _round(middle),
        unit,
        reach,
        reached,
        _round(min(values)) if several else None,
        _round(max(values)) if several else None,
        note,
    )


def _round(value: float) -> float:
    return round(value, 3 if abs(value) < 10 else 1)
