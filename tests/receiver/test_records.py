"""Values that are made for every delivery: made quickly, and made right."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest

from receiver import jsontext
from receiver.records import Delivery, DeliveryId, Job, assembler
from receiver.states import Evidence, JobState, Verdict
from receiver.store.sqlite import jobrows

JOB = Job("src", "j1", 1.0, alias="a1", result={"n": 1}, evidence=Evidence.KNOWN, polls=3)
DELIVERY = Delivery(DeliveryId(7), "src", 1.0, "192.0.2.1", (("a", "b"),), b"{}", "00")


@pytest.mark.parametrize(
    ("value", "changes"),
    [
        (JOB, {}),
        (JOB, {"state": JobState.FAILED, "result": None, "polls": 4}),
        (DELIVERY, {"verdict": Verdict.HELD, "job_id": "j1"}),
    ],
)
def test_a_copy_differs_in_what_was_changed_and_in_nothing_else(value: Any, changes: dict[str, Any]) -> None:
    """The quick copy is the one the library would have made, and as unchangeable."""
    copy = value.with_(**changes)

    assert copy == replace(value, **changes)
    assert hash(type(copy)) == hash(type(value))
    with pytest.raises(FrozenInstanceError):
        copy.source = "another"


@pytest.mark.parametrize("value", [JOB, DELIVERY])
def test_a_field_that_does_not_exist_is_not_quietly_left_out(value: Any) -> None:
    """A misspelt name is a mistake, not a change of nothing."""
    with pytest.raises((TypeError, ValueError)):
        value.with_(stat="pending")


@pytest.mark.parametrize("names", [[], ["source"], [*jobrows.FIELDS, "another"], [*jobrows.FIELDS[1:], "job_id"]])
def test_values_are_assembled_from_all_fields_or_not_at_all(names: list[str]) -> None:
    """A column that is forgotten would be a field that is not there."""
    with pytest.raises(TypeError):
        assembler(Job, names)


def test_a_job_goes_into_its_row_and_back() -> None:
    """Every field has its column, whatever their order."""
    assert jobrows.job_of(jobrows.values_of(JOB)) == JOB
    assert {each.name for each in fields(Job)} == set(jobrows.FIELDS)


def test_what_is_written_twice_in_a_row_is_written_the_same() -> None:
    """The same object, an equal one, another, and one too long to be kept: each is written as `dump` writes it."""
    same = {"text": "é", "n": 1.0}
    long = {"text": "x" * 70_000}
    for value in (same, same, dict(same), None, {"n": 1}, long, long, same, [True]):
        assert jsontext.dump_shared(value) == jsontext.dump(value)


def test_an_object_of_texts_is_written_as_any_other() -> None:
    """Quotes, controls, other alphabets, a lone surrogate, nothing at all; what is JSON already comes after them."""
    texts = {"a": 'x"\\\n', "b": None, "c": "é\ud800", "d": ""}
    written = jsontext.dump_texts(texts, e='{"f":1.0}', g="null")

    assert written == jsontext.dump({**texts, "e": {"f": 1.0}, "g": None})
    assert jsontext.dump_texts({}) == jsontext.dump({})
