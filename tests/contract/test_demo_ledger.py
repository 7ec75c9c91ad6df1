"""The JSON of `holdfast demo`."""

from holdfast.demo.ledger import Account, Ledger

KEYS = [
    "submitted",
    "sent",
    "dropped",
    "duplicated",
    "forged",
    "late",
    "crashes",
    "told",
    "by_webhook",
    "by_poll",
    "by_deadline",
    "lost",
    "told_twice",
    "told_wrong",
]


def test_each_source_has_the_same_figures_as_the_whole() -> None:
    """The keys of the contract, in its order, for the whole and for each source."""
    document = Ledger(sources={"omnia": Account(told=1)}).as_dict(crashes=2)

    assert list(document) == [*KEYS, "sources"]
    assert list(document["sources"]["omnia"]) == KEYS
