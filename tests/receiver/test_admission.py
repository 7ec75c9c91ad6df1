"""How room for bodies is shared out."""

from hypothesis import given
from hypothesis import strategies as st

from receiver.admission import SMALL_BYTES, ByteBudget, Claim

MIB = 1 << 20


def fill(budget: ByteBudget, source: str, size: int) -> list[Claim]:
    """Bodies of a size, until there is no room for another."""
    claims: list[Claim] = []
    while (claim := budget.claim(source, size)) is not None:
        if not claim.cover(size):
            claim.release()
            break
        claims.append(claim)
    return claims


def test_one_source_of_large_bodies_leaves_room_for_large_bodies_of_the_others() -> None:
    """The common rest may be used up by one; what is each source's own may not."""
    budget = ByteBudget(64 * MIB, ["greedy", "a", "b", "c"])

    assert len(fill(budget, "greedy", MIB)) > 64 // 4
    assert all(len(fill(budget, name, 5 * MIB)) >= 1 for name in ("a", "b", "c"))


def test_small_bodies_find_a_way_past_large_ones_even_of_their_own_source() -> None:
    """The reserved lane is for small bodies alone."""
    budget = ByteBudget(64 * MIB, ["only"])
    large = fill(budget, "only", MIB)

    assert len(large) == 56
    assert len(fill(budget, "only", 1000)) > 8000


def test_one_source_of_small_bodies_leaves_the_lane_to_the_others() -> None:
    """Many small bodies are a large one in disguise."""
    budget = ByteBudget(64 * MIB, ["flood", "other"])
    fill(budget, "flood", SMALL_BYTES)
    fill(budget, "other", MIB)

    assert len(fill(budget, "other", 1000)) > 1000


def test_what_is_announced_is_believed_up_to_a_small_body_only() -> None:
    """A thousand senders that announce 5 MB and send nothing take little room."""
    budget = ByteBudget(64 * MIB, ["a"])
    claim = budget.claim("a", 5 * MIB)

    assert claim is not None
    assert claim.held_bytes == SMALL_BYTES
    assert claim.cover(5 * MIB)
    assert claim.held_bytes == 5 * MIB


def test_the_largest_body_fits_into_an_empty_house() -> None:
    """Whatever the shares are, a body that fits at all is taken when nothing else waits."""
    budget = ByteBudget(5 * MIB, [f"source-{index}" for index in range(40)])
    claim = budget.claim("source-7", 5 * MIB)

    assert claim is not None
    assert all(claim.cover(size) for size in range(SMALL_BYTES, 5 * MIB + 1, SMALL_BYTES))
    assert not claim.cover(5 * MIB + 1)


def test_room_is_given_back_once() -> None:
    """Releasing twice frees nothing of the others'."""
    budget = ByteBudget(MIB, ["a"])
    first, second = budget.claim("a", 1000), budget.claim("a", 1000)
    assert first is not None
    assert second is not None

    first.release()
    first.release()

    assert budget.waiting_bytes == 1000
    assert not first.cover(2000)


Steps = st.lists(
    st.tuples(st.sampled_from(["claim", "cover", "release"]), st.integers(0, 3), st.integers(0, 3 * SMALL_BYTES)),
    max_size=60,
)


@given(Steps, st.integers(1, 8 * SMALL_BYTES))
def test_no_order_of_steps_loses_room_or_passes_the_bound(steps: list[tuple[str, int, int]], total_bytes: int) -> None:
    """The sum of the claims is what is counted, never above the total; with all released, all is free again."""
    names = ["a", "b", "c", "d"]
    budget = ByteBudget(total_bytes, names)
    claims: list[Claim] = []
    for what, which, size in steps:
        if what == "claim":
            claim = budget.claim(names[which], size)
            claims += [claim] if claim is not None else []
        elif claims and what == "cover":
            claims[which % len(claims)].cover(size)
        elif claims:
            claims.pop(which % len(claims)).release()
        assert budget.waiting_bytes == sum(each.held_bytes for each in claims) <= total_bytes
    for claim in claims:
        claim.release()

    assert budget.waiting_bytes == 0
    alone = budget.claim("a", total_bytes)
    assert alone is not None
    assert alone.cover(total_bytes)
