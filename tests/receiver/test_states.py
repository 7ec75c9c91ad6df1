"""The one table that says what may change what: every pair of record and claim, at every strength of evidence."""

import itertools

import pytest

from receiver.states import OURS, TABLE, Claim, Evidence, JobState, Move, Reason, judge, standing, state_of

STANDINGS: list[tuple[JobState, Reason | None]] = [
    (JobState.PENDING, None),
    (JobState.COMPLETED, None),
    *((JobState.FAILED, reason) for reason in Reason),
]
EVERYTHING = list(itertools.product(STANDINGS, Evidence, Claim, Evidence))


def may_contradict(state: JobState, reason: Reason | None, claim: Claim) -> bool:
    """Whether a claim says otherwise than what stands: an end of another kind than the one on record."""
    if state is JobState.PENDING or claim not in (Claim.COMPLETED, Claim.FAILED):
        return False
    if reason in OURS:
        return True
    return (state is JobState.COMPLETED) != (claim is Claim.COMPLETED)


def test_the_table_answers_for_every_pair() -> None:
    """No pair of record and claim is left to chance."""
    assert set(TABLE) == set(itertools.product(Claim, Claim))


def test_a_pending_job_ends_on_any_claim_of_an_end() -> None:
    """The first to say how it ended is believed; whoever says it is running only leaves a note."""
    for claim, offered in itertools.product(Claim, Evidence):
        expected = Move.NOTE if claim is Claim.RUNNING else Move.SETTLE
        assert judge(JobState.PENDING, None, Evidence.NONE, claim, offered) is expected


@pytest.mark.parametrize(("state", "reason"), STANDINGS[1:])
def test_an_end_changes_only_on_stronger_evidence_that_says_otherwise(state: JobState, reason: Reason | None) -> None:
    """Equal or weaker evidence that contradicts is a conflict; what agrees, or claims no end, changes nothing."""
    for held, claim, offered in itertools.product(Evidence, Claim, Evidence):
        move = judge(state, reason, held, claim, offered)

        if may_contradict(state, reason, claim):
            assert move is (Move.CORRECT if offered > held else Move.CONFLICT)
        else:
            assert move in (Move.CONFIRM, Move.IGNORE, Move.NOTE)


def test_no_claim_ever_reopens_a_job() -> None:
    """Whatever is said of a job that has ended, it never becomes pending again."""
    for (state, reason), held, claim, offered in EVERYTHING:
        if state is not JobState.PENDING and judge(state, reason, held, claim, offered) in (Move.SETTLE, Move.CORRECT):
            assert state_of(claim) is not JobState.PENDING


def test_giving_up_never_overrules_a_provider() -> None:
    """Our own deadline moves nothing but a pending job, however strong it pretends to be."""
    for (state, reason), held, offered in itertools.product(STANDINGS[1:], Evidence, Evidence):
        assert judge(state, reason, held, Claim.GIVEN_UP, offered) is Move.IGNORE


def test_evidence_is_ranked_as_the_contract_has_it() -> None:
    """deadline < webhook trusted as known < webhook trusted as payload < poll."""
    assert sorted(Evidence) == [
        Evidence.NONE, Evidence.DEADLINE, Evidence.KNOWN, Evidence.PAYLOAD, Evidence.POLL,
    ]  # fmt: skip


def test_what_we_gave_up_on_is_not_what_a_provider_failed() -> None:
    """`stale`, `not_found` and `unreachable` are ours; `provider` and `cancelled` are the provider's."""
    ours = {reason for reason in Reason if standing(JobState.FAILED, reason) is Claim.GIVEN_UP}

    assert ours == {Reason.STALE, Reason.NOT_FOUND, Reason.UNREACHABLE} == OURS
    assert standing(JobState.PENDING, None) is Claim.RUNNING
    assert standing(JobState.COMPLETED, None) is Claim.COMPLETED
