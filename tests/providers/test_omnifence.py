"""OmniFence: what its webhooks say, and how many jobs are asked about in few questions without believing an absence."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from receiver import clock
from receiver.providers.base import Accepted, Question, Refused, Reply
from receiver.providers.omnifence import PROVIDER
from receiver.providers.signing import hmac_sha256_hex
from receiver.settings import SourceSettings
from receiver.states import Claim, Reason
from tests.providers.talk import Talk, answers, delivered, job_of, read, reply_of, source_of, talk, with_secret
from tests.support import START

HOSTILE = ["../x", "a/b?c#d", "a\nb", "x" * 5000, "a\0b", "..", ".", "%2e%2e", "a b", "é", "a:completed", "\\x"]


@pytest.fixture
def source() -> SourceSettings:
    """An OmniFence source with a key."""
    return source_of("omnifence")


class Account:
    """OmniFence as documented: rows by id, newest first; a test may change it between two pages."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        for number, (job_id, status) in enumerate(rows.items()):
            self.add(job_id, status, START + number)
        self.max_limit = 100
        self.on_list: Callable[[int], None] = lambda number: None
        self.lists = 0
        self.row_fields: tuple[str, ...] = ("job_id", "type", "status", "is_prohibited", "created_at", "completed_at")
        self.total: Callable[[int], Any] = lambda real: real

    def add(self, job_id: str, status: str, created_at: float = START) -> None:
        self.rows[job_id] = {
            "job_id": job_id,
            "type": "image",
            "status": status,
            "is_prohibited": {"completed": False}.get(status),
            "categories": {"custom": {}},
            "created_at": clock.text(created_at),
            "completed_at": None,
        }

    def __call__(self, question: Question) -> Reply:
        assert question.path is not None
        if question.path == "/api/v1/jobs":
            self.lists += 1
            self.on_list(self.lists)
            return self._list(question.query)
        row = self.rows.get(question.path.removeprefix("/api/v1/job/"))
        if row is None:
            return reply_of({"error": "JOB_NOT_FOUND", "message": "", "statusCode": 404}, 404)
        return reply_of(row)

    def _list(self, query: Mapping[str, str]) -> Reply:
        wanted = query["status"].split(",")
        since = query.get("from", "")
        rows = [row for row in self.rows.values() if row["status"] in wanted and row["created_at"] >= since]
        rows.sort(key=lambda row: str(row["created_at"]), reverse=True)
        limit, offset = min(int(query["limit"]), self.max_limit), int(query["offset"])
        page = [{key: row[key] for key in self.row_fields if key in row} for row in rows[offset : offset + limit]]
        return reply_of({"jobs": page, "total": self.total(len(rows)), "limit": limit, "offset": offset})


def asked_of(account: Account, ids: list[str], source: SourceSettings, most: int = 1000) -> Talk:
    """Ask about jobs submitted a second apart in the order given; they are handed over youngest first."""
    jobs = [job_of(job_id, submitted_at=START + number) for number, job_id in enumerate(ids)]
    return talk(PROVIDER, jobs[::-1], source, account, most=most)


# -- reading ------------------------------------------------------------------------------------------------------


def test_the_key_of_a_sending_is_the_job_and_its_status_in_any_case(source: SourceSettings) -> None:
    """The same job and status is the same sending, however the word is written; another status is another sending."""
    keys = [read(PROVIDER, {"job_id": "j1", "status": word}, source).event_key for word in ("completed", "COMPLETED")]

    assert keys == ["j1:completed", "j1:completed"]
    assert read(PROVIDER, {"job_id": "j1", "status": "failed"}, source).event_key == "j1:failed"


@example(one=("a", "b:c"), two=("a:b", "c"))
@example(one=("a%3Ab", "c"), two=("a:b", "c"))
@given(one=st.tuples(st.text(min_size=1), st.text(min_size=1)), two=st.tuples(st.text(min_size=1), st.text(min_size=1)))
def test_no_two_jobs_share_a_key(one: tuple[str, str], two: tuple[str, str]) -> None:
    """Whoever chooses ids and words freely cannot make the delivery of another job look like a repeat."""
    source = source_of("omnifence")
    first, second = (read(PROVIDER, {"job_id": job_id, "status": word}, source) for job_id, word in (one, two))
    same = (one[0], one[1][:200].lower()) == (two[0], two[1][:200].lower())

    assert (first.event_key == second.event_key) == same


@pytest.mark.parametrize("job_id", [None, "", [], {}, True, ["j"], "\ud800"])
def test_a_body_without_a_usable_job_id_is_a_problem(job_id: object, source: SourceSettings) -> None:
    """What is not text or a number, or cannot be stored, is no id: kept with its reason, never acted on."""
    reading = read(PROVIDER, {"job_id": job_id, "status": "completed"}, source)

    assert (reading.problem, reading.said) == ("missing_job_id", None)


@pytest.mark.parametrize("status", [None, "", 7, [], {"is": "completed"}, False])
def test_a_body_without_a_status_word_is_a_problem(status: object, source: SourceSettings) -> None:
    """Without a word nothing is claimed; an operator can see why."""
    assert read(PROVIDER, {"job_id": "j1", "status": status}, source).problem == "missing_status"


@pytest.mark.parametrize("job_id", HOSTILE)
def test_ids_are_taken_as_they_are_written(job_id: str, source: SourceSettings) -> None:
    """Ids need not be UUIDs: no trimming, folding or refusing of odd ones."""
    said = read(PROVIDER, {"job_id": job_id, "status": "completed"}, source).said

    assert said is not None
    assert said.job_id == job_id


def test_a_numeric_id_is_its_text(source: SourceSettings) -> None:
    """A JSON number is compared as it was written."""
    reading = PROVIDER.read(delivered({}), {"job_id": 7, "status": "failed"}, source)

    assert reading.said is not None
    assert reading.said.job_id == "7"


@pytest.mark.parametrize("word", ["queued", "PROCESSING", "flagged", "cancelled", "complete"])
def test_an_unknown_word_means_running_and_is_kept(word: str, source: SourceSettings) -> None:
    """Only the two documented ends end a job."""
    said = read(PROVIDER, {"job_id": "j1", "status": word}, source).said

    assert said is not None
    assert (said.claim, said.status, said.reason) == (Claim.RUNNING, word, None)


def test_without_a_verdict_the_result_is_still_the_whole_object(source: SourceSettings) -> None:
    """`is_prohibited: null` means no verdict, and must reach the application as null, not as a pass (OF-8)."""
    body = {"job_id": "j1", "status": "failed", "is_prohibited": None, "error_code": "X", "type": "Video"}
    said = read(PROVIDER, body, source).said

    assert said is not None
    assert said.result == body
    assert (said.claim, said.reason, said.modality) == (Claim.FAILED, Reason.PROVIDER, "video")


def test_an_unsigned_sender_is_accepted_and_has_proven_nothing(source: SourceSettings) -> None:
    """OmniFence signs nothing; trust is decided elsewhere, on the ground that nothing was proven."""
    assert PROVIDER.authenticate(delivered({}), source, START) == Accepted(proven=False)


def test_a_secret_that_something_in_between_adds_is_checked(source: SourceSettings) -> None:
    """With a secret and a header configured, only a sender that shows one of the secrets, once, has proven itself."""
    guarded = with_secret(source, "new", "old", header="x-secret")

    assert PROVIDER.authenticate(delivered({}, ("x-secret", "old")), guarded, START) == Accepted(proven=True)
    for wrong in ([], [("x-secret", "older")], [("x-secret", "")], [("x-secret", "old"), ("x-secret", "old")]):
        assert PROVIDER.authenticate(delivered({}, *wrong), guarded, START) == Refused("secret")


def test_an_hmac_header_is_checked_over_the_raw_body(source: SourceSettings) -> None:
    """`secret_mode = "hmac_sha256_hex"`: the digest of these bytes with one of the secrets."""
    guarded = with_secret(source, "k", header="x-sig", mode="hmac_sha256_hex")
    good = hmac_sha256_hex(b"k", delivered({"a": 1}).body)

    assert PROVIDER.authenticate(delivered({"a": 1}, ("x-sig", good)), guarded, START) == Accepted(proven=True)
    assert PROVIDER.authenticate(delivered({"a": 2}, ("x-sig", good)), guarded, START) == Refused("signature")


# -- single questions ---------------------------------------------------------------------------------------------


def test_up_to_two_jobs_are_asked_about_singly_oldest_first(source: SourceSettings) -> None:
    """A listing would not be cheaper for so few."""
    account = Account({"a": "completed", "b": "queued"})
    had = talk(PROVIDER, [job_of("b", submitted_at=START + 5), job_of("a", submitted_at=START)], source, account)

    assert [question.path for question in had.questions] == ["/api/v1/job/a", "/api/v1/job/b"]
    assert had.told["a"].claim is Claim.COMPLETED
    assert had.told["a"].result == account.rows["a"]
    assert (had.told["b"].claim, had.told["b"].status, had.told["b"].modality) == (Claim.RUNNING, "queued", "image")
    assert had.told["b"].submitted_at == START + 1


@pytest.mark.parametrize("job_id", HOSTILE)
def test_an_id_is_one_escaped_segment(job_id: str, source: SourceSettings) -> None:
    """No id leads a request to another path, a query or another host."""
    had = talk(PROVIDER, [job_of(job_id)], source, answers(reply_of({"error": "JOB_NOT_FOUND"}, 404)))
    path = had.questions[0].path

    assert path is not None
    head, _, last = path.rpartition("/")
    assert head == "/api/v1/job"
    assert last not in ("", ".", "..")
    assert last.isascii()
    assert not set(last) & set("/?# \\\n\0")
    assert had.told[job_id].missing


def test_a_poll_url_on_the_configured_origin_is_preferred_and_a_foreign_one_never_used(source: SourceSettings) -> None:
    """Credentials go to the configured origin alone."""
    mine = "https://api.evershield.ai/api/v1/job/j1?view=full"
    for given_url, expected in [
        (mine, (mine, None)),
        ("https://evil.example/api/v1/job/j1", (None, "/api/v1/job/j1")),
        ("http://api.evershield.ai/api/v1/job/j1", (None, "/api/v1/job/j1")),
        ("https://api.evershield.ai@evil.example/", (None, "/api/v1/job/j1")),
        ("https://api.evershield.ai\\@evil.example/", (None, "/api/v1/job/j1")),
        ("https://api.evershield.ai:444/api", (None, "/api/v1/job/j1")),
        ("/api/v1/job/other", (None, "/api/v1/job/j1")),
    ]:
        reply = reply_of({"job_id": "j1", "status": "queued"})
        had = talk(PROVIDER, [job_of("j1", poll_url=given_url)], source, answers(reply))
        assert (had.questions[0].url, had.questions[0].path) == expected


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (reply_of({"job_id": "other", "status": "completed"}), "the answer is about another job"),
        (reply_of({"job_id": {}, "status": "completed"}), "the answer is about another job"),
        (reply_of({"job_id": "j1"}), "the answer has no status"),
        (reply_of({"job_id": "j1", "status": 3}), "the answer has no status"),
        (reply_of([{"job_id": "j1", "status": "completed"}]), "the answer is not a JSON object"),
        (reply_of(b"<html>login</html>"), "the answer is not a JSON object"),
        (reply_of(b""), "the answer is not a JSON object"),
        (reply_of(b'{"job_id":"j1","status":"completed"', 200), "the answer is not a JSON object"),
        (reply_of({"error": "INVALID_REQUEST"}, 400), "400 INVALID_REQUEST"),
        (reply_of(b"no", 400), "400 without a code"),
    ],
)
def test_an_answer_that_cannot_be_believed_decides_nothing(reply: Reply, problem: str, source: SourceSettings) -> None:
    """Junk, another job's answer or a refusal of the question is a problem to show, never an outcome."""
    finding = talk(PROVIDER, [job_of("j1")], source, answers(reply)).told["j1"]

    assert (finding.claim, finding.missing, finding.problem) == (None, False, problem)


def test_an_answer_that_leaves_its_id_out_is_taken(source: SourceSettings) -> None:
    """The vendor's generated samples leave required fields out (1.4); the address said whose answer it is."""
    had = talk(PROVIDER, [job_of("j1")], source, answers(reply_of({"status": "FAILED", "is_prohibited": None})))

    assert (had.told["j1"].claim, had.told["j1"].reason) == (Claim.FAILED, Reason.PROVIDER)
    assert had.told["j1"].result == {"status": "FAILED", "is_prohibited": None}


def test_a_retry_after_on_a_running_job_is_passed_on(source: SourceSettings) -> None:
    """Not documented, and honoured if it shows up."""
    running = talk(PROVIDER, [job_of("j1")], source, answers(reply_of({"status": "queued"}, retry_after="7")))
    ended = talk(PROVIDER, [job_of("j1")], source, answers(reply_of({"status": "completed"}, retry_after="7")))

    assert running.told["j1"].retry_after_s == 7
    assert ended.told["j1"].retry_after_s is None
    page = {"jobs": [{"job_id": f"j{number}", "status": "queued"} for number in range(4)], "total": 4}
    listed = talk(PROVIDER, [job_of(f"j{n}") for n in range(4)], source, answers(reply_of(page, retry_after="7")))
    assert {finding.retry_after_s for finding in listed.findings} == {7}


def test_one_job_the_provider_refuses_does_not_keep_the_next_from_being_asked_about(source: SourceSettings) -> None:
    """A bad id is that job's trouble, not the provider's."""
    replies = answers(reply_of({"error": "INVALID_REQUEST"}, 400), reply_of({"status": "completed"}))
    had = talk(PROVIDER, [job_of("bad"), job_of("good", submitted_at=START + 1)], source, replies)

    assert had.told["bad"].problem == "400 INVALID_REQUEST"
    assert had.told["good"].claim is Claim.COMPLETED


# -- the lists ----------------------------------------------------------------------------------------------------


def test_many_running_jobs_cost_one_question(source: SourceSettings) -> None:
    """Who is in the list of open jobs is running, as the list says."""
    ids = [f"j{number}" for number in range(80)]
    had = asked_of(Account(dict.fromkeys(ids, "processing")), ids, source)

    assert len(had.questions) == 1
    assert dict(had.questions[0].query) == {
        "status": "queued,processing",
        "limit": "100",
        "offset": "0",
        "from": clock.text(START - 60),
    }
    assert {finding.claim for finding in had.told.values()} == {Claim.RUNNING}
    assert {finding.status for finding in had.told.values()} == {"processing"}
    assert set(had.told) == set(ids)


def test_absence_from_the_list_is_only_a_candidate(source: SourceSettings) -> None:
    """A job that is not in the list of open jobs is asked about singly; its own answer decides."""
    account = Account({"a": "queued", "b": "completed", "c": "failed", "d": "queued"})
    del account.rows["d"]
    had = asked_of(account, ["a", "b", "c", "d"], source)

    assert had.singles == ["b", "c", "d"]
    assert had.told["b"].result == account.rows["b"]
    assert not had.told["b"].partial
    assert had.told["c"].claim is Claim.FAILED
    assert had.told["d"].missing


@pytest.mark.parametrize(
    "page",
    [
        reply_of({"jobs": [], "total": 0}),
        reply_of({"error": "INVALID_REQUEST"}, 400),
        reply_of({"error": "JOB_NOT_FOUND"}, 404),
        reply_of(b"<html>"),
        reply_of({"jobs": "none"}),
        reply_of([]),
        reply_of({"jobs": [1, None, {"job_id": None}, {"job_id": []}], "total": 4}),
    ],
)
def test_nothing_is_concluded_from_an_empty_or_unreadable_list(page: Reply, source: SourceSettings) -> None:
    """A wrong key, a wrong account or a broken list look like 'everything finished'; every job is confirmed singly."""
    ids = ["a", "b", "c", "d"]
    account = Account(dict.fromkeys(ids, "processing"))

    had = talk(
        PROVIDER,
        [job_of(job_id) for job_id in ids],
        source,
        lambda question: page if question.path == "/api/v1/jobs" else account(question),
    )

    assert sorted(filter(None, had.singles)) == ids
    assert {finding.claim for finding in had.told.values()} == {Claim.RUNNING}


def test_a_row_skipped_while_the_list_shrinks_does_not_look_finished(source: SourceSettings) -> None:
    """Offset paging over a set that shrinks skips rows (OF-5): the skipped job is asked, and is still running."""
    ids = [f"j{number:03}" for number in range(250)]
    account = Account(dict.fromkeys(ids, "processing"))

    def finish_some(page: int) -> None:
        if page == 2:
            for job_id in ids[-50:]:  # the newest, on the first page already read: everything moves up by 50
                account.rows[job_id]["status"] = "completed"

    account.on_list = finish_some
    had = asked_of(account, ids, source)

    assert set(had.told) == set(ids)
    assert len(had.singles) == 50
    assert {had.told[job_id].claim for job_id in ids[100:150]} == {Claim.RUNNING}


def test_rows_repeated_while_the_list_grows_are_told_of_once(source: SourceSettings) -> None:
    """New jobs push old rows onto the next page."""
    ids = [f"j{number:03}" for number in range(150)]
    account = Account(dict.fromkeys(ids, "processing"))

    def submit_more(page: int) -> None:
        for number in range(10):
            account.add(f"new-{page}-{number}", "queued", START + 1000 + page)

    account.on_list = submit_more
    had = asked_of(account, ids, source)

    assert set(had.told) == set(ids)
    assert had.singles == []
    assert set(had.unlisted) == {f"new-1-{number}" for number in range(10)}


def test_paging_goes_by_what_came_not_by_what_was_asked_for(source: SourceSettings) -> None:
    """A server that gives fewer rows a page than asked for loses none."""
    ids = [f"j{number:03}" for number in range(60)]
    account = Account(dict.fromkeys(ids, "processing"))
    account.max_limit = 25
    had = asked_of(account, ids, source)

    assert [question.query["offset"] for question in had.questions] == ["0", "25", "50"]
    assert len(had.told) == 60


@pytest.mark.parametrize("total", [lambda real: 0, lambda real: 10**30, lambda real: None, lambda real: "many"])
def test_a_total_that_lies_costs_questions_never_truth(total: Callable[[int], Any], source: SourceSettings) -> None:
    """Too small, too large, missing or no number: every job gets its true answer, and asking ends."""
    ids = [f"j{number:03}" for number in range(150)]
    account = Account(dict.fromkeys(ids, "processing"))
    account.total = total
    had = asked_of(account, ids, source, most=200)

    assert set(had.told) == set(ids)
    assert {finding.claim for finding in had.told.values()} == {Claim.RUNNING}


@pytest.mark.parametrize("fresh_ids", [False, True])
def test_a_list_without_end_ends(fresh_ids: bool, source: SourceSettings) -> None:
    """A page repeated for ever, or ever new rows: neither list costs more than the questions it should save."""
    ids = [f"j{number}" for number in range(30)]
    pages = iter(range(10**9))

    def server(question: Question) -> Reply:
        if question.path != "/api/v1/jobs":
            return reply_of({"status": "processing"})
        number = next(pages) if fresh_ids else 0
        rows = [{"job_id": f"other-{number}-{row}", "status": "queued"} for row in range(100)]
        return reply_of({"jobs": rows, "total": 10**9 if not fresh_ids else None})

    had = talk(PROVIDER, [job_of(job_id) for job_id in ids], source, server, most=3 * len(ids))

    assert set(had.told) == set(ids)


def test_a_page_that_repeats_itself_is_asked_for_twice_at_most(source: SourceSettings) -> None:
    """A page without a row not seen before ends the list, even if no total says so."""
    ids = [f"j{number}" for number in range(30)]
    page = reply_of({"jobs": [{"job_id": f"other-{row}", "status": "queued"} for row in range(100)]})
    single = reply_of({"status": "processing"})
    had = talk(
        PROVIDER,
        [job_of(job_id) for job_id in ids],
        source,
        lambda question: page if question.path == "/api/v1/jobs" else single,
    )

    assert len(had.questions) - len(had.singles) == 2 + 2  # the open ones, and the ended ones for 30 candidates


@pytest.mark.parametrize(("others", "status"), [(10, "completed"), (250, "processing")])
def test_without_a_total_no_page_is_asked_for_in_vain(others: int, status: str, source: SourceSettings) -> None:
    """A short page is the last one, and none is read when every job was found."""
    ids = [f"j{number}" for number in range(5)]
    account = Account({f"other-{number}": "queued" for number in range(others)})
    for job_id in ids:
        account.add(job_id, status, START + 1000)
    account.total = lambda real: None
    had = asked_of(account, ids, source)

    assert len(had.questions) - len(had.singles) == 1


def test_a_list_longer_than_asking_singly_is_given_up(source: SourceSettings) -> None:
    """Three jobs among five thousand of others: three questions are cheaper than fifty pages."""
    account = Account({f"other-{number}": "processing" for number in range(5000)})
    for number, job_id in enumerate(("a", "b", "c")):
        account.add(job_id, "processing", START + number)
    had = asked_of(account, ["a", "b", "c"], source)

    assert len(had.questions) == 1 + 3
    assert had.singles == ["a", "b", "c"]


def test_reading_the_list_stops_when_no_job_is_left_to_look_for(source: SourceSettings) -> None:
    """The budget is shared with the application."""
    account = Account({f"other-{number}": "processing" for number in range(150)})
    for number in range(5):
        account.add(f"j{number}", "processing", START + 1000)
    had = asked_of(account, [f"j{number}" for number in range(5)], source)

    assert len(had.questions) == 1


def test_more_than_twenty_candidates_are_sorted_by_the_list_of_ended_jobs(source: SourceSettings) -> None:
    """Those the list shows as ended are fetched first, oldest first, each whole; the rest is confirmed after them."""
    ids = [f"j{number:02}" for number in range(30)]
    account = Account({job_id: "failed" if job_id < "j05" else "completed" for job_id in ids})
    for job_id in ids[::10]:
        del account.rows[job_id]
    had = asked_of(account, ids, source)
    gone = ids[::10]

    assert [question.query["status"] for question in had.questions[:2]] == ["queued,processing", "completed,failed"]
    assert had.singles == [job_id for job_id in ids if job_id not in gone] + gone
    assert not any(finding.partial for finding in had.told.values())
    assert all(had.told[job_id].missing for job_id in gone)
    assert had.told["j11"].result == account.rows["j11"]


def test_twenty_candidates_are_asked_about_at_once(source: SourceSettings) -> None:
    """The second list is not read below the threshold."""
    ids = [f"j{number:02}" for number in range(20)]
    had = asked_of(Account(dict.fromkeys(ids, "completed")), ids, source)

    assert len(had.questions) == 1 + 20


def test_bulk_results_from_the_list_are_marked_partial_and_unconfirmed_jobs_still_asked() -> None:
    """`bulk_results = "list"` tells at once from a row; a row without a status tells nothing."""
    source = source_of("omnifence", bulk_results="list")
    account = Account({"a": "completed", "b": "failed", "c": "processing", "d": "completed"})
    del account.rows["d"]
    had = asked_of(account, ["a", "b", "c", "d"], source)

    assert had.singles == ["d"]
    assert (had.told["a"].claim, had.told["a"].partial) == (Claim.COMPLETED, True)
    assert (had.told["b"].claim, had.told["b"].reason) == (Claim.FAILED, Reason.PROVIDER)
    assert had.told["a"].result == {key: account.rows["a"][key] for key in account.row_fields}
    assert had.told["d"].missing

    account.row_fields = ("job_id", "is_prohibited", "created_at", "completed_at")
    bare = asked_of(account, ["a", "b", "c", "d"], source)

    assert set(bare.singles) == {"a", "b", "d"}
    assert (bare.told["c"].claim, bare.told["c"].status) == (Claim.RUNNING, None)
    assert not bare.told["a"].partial


def test_a_row_that_contradicts_its_list_is_not_believed(source: SourceSettings) -> None:
    """The list and the row are read at two moments: an ended row among the open ones is asked about singly."""
    rows = [{"job_id": job_id, "status": "completed"} for job_id in "abc"]

    def server(question: Question) -> Reply:
        if question.path == "/api/v1/jobs":
            return reply_of({"jobs": rows, "total": 3})
        return reply_of({"status": "completed", "is_prohibited": True})

    had = talk(PROVIDER, [job_of(job_id) for job_id in "abc"], source, server)

    assert had.singles == ["a", "b", "c"]
    assert {finding.claim for finding in had.told.values()} == {Claim.COMPLETED}


def test_findings_come_with_their_page(source: SourceSettings) -> None:
    """What a page told is out before the next question, so that a crash or an empty budget loses one page at most."""
    ids = [f"j{number:03}" for number in range(150)]
    had = asked_of(Account(dict.fromkeys(ids, "processing")), ids, source)
    kinds = ["question" if isinstance(item, Question) else "finding" for item in had.order]

    assert kinds == ["question", *["finding"] * 100, "question", *["finding"] * 50]


def test_trouble_at_the_provider_ends_the_round_and_keeps_what_was_told(source: SourceSettings) -> None:
    """A 429 on the second page: the first page's findings stand, nothing else is claimed."""
    ids = [f"j{number:03}" for number in range(150)]
    account = Account(dict.fromkeys(ids, "processing"))

    def server(question: Question) -> Reply:
        reply = account(question)
        return reply if account.lists < 2 else reply_of({"error": "RATE_LIMITED"}, 429)

    had = talk(PROVIDER, [job_of(job_id, submitted_at=START) for job_id in ids], source, server)

    assert (had.trouble, len(had.told)) == ("rate_limited", 100)


# -- jobs nobody asked about --------------------------------------------------------------------------------------


def test_jobs_of_others_in_a_list_are_candidates_for_adoption(source: SourceSettings) -> None:
    """They are marked and carry what a row tells, without a result."""
    account = Account({"a": "queued", "b": "queued", "c": "queued", "stranger": "processing"})
    had = asked_of(account, ["a", "b", "c"], source)
    stranger = had.unlisted["stranger"]

    assert (stranger.claim, stranger.status, stranger.modality) == (Claim.RUNNING, "processing", "image")
    assert (stranger.submitted_at, stranger.result) == (START + 3, None)


def test_with_no_job_due_the_recent_jobs_are_listed(source: SourceSettings) -> None:
    """Adoption works when nothing is pending: open jobs, then the last page of ended ones, all unlisted, each once."""
    account = Account({"open": "queued", "done": "completed", "bad": "failed"})
    had = talk(PROVIDER, [], source, account)

    assert [question.query["status"] for question in had.questions] == ["queued,processing", "completed,failed"]
    assert {job_id: (finding.status, finding.claim) for job_id, finding in had.unlisted.items()} == {
        "open": ("queued", Claim.RUNNING),
        "done": ("completed", Claim.COMPLETED),
        "bad": ("failed", Claim.FAILED),
    }
    assert had.told == {}

    account.row_fields = ("job_id", "created_at")
    bare = talk(PROVIDER, [], source, account).unlisted

    assert {job_id: finding.claim for job_id, finding in bare.items()} == {
        "open": Claim.RUNNING,
        "done": None,
        "bad": None,
    }


def test_a_job_that_ends_between_two_lists_is_told_of_once(source: SourceSettings) -> None:
    """It stands in both; the first word is enough to adopt it."""
    account = Account({"moving": "processing"})

    def end(page: int) -> None:
        if page == 2:
            account.rows["moving"]["status"] = "completed"

    account.on_list = end
    had = talk(PROVIDER, [], source, account)

    assert (len(had.questions), had.unlisted["moving"].claim) == (2, Claim.RUNNING)


def test_looking_around_is_bounded(source: SourceSettings) -> None:
    """Three pages of open jobs and one of ended ones, however many there are."""
    account = Account({f"open-{number}": "queued" for number in range(1000)})
    for number in range(1000):
        account.add(f"done-{number}", "completed")
    had = talk(PROVIDER, [], source, account)

    assert len(had.questions) == 3 + 1
    assert len(had.unlisted) == 400


@pytest.mark.parametrize("created_at", [None, 7, "soon", "", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_odd_created_at_is_left_out(created_at: object, source: SourceSettings) -> None:
    """A sender's clock is never needed."""
    rows = [{"job_id": "x", "status": "queued", "created_at": created_at, "type": created_at}]
    had = talk(PROVIDER, [], source, answers(reply_of({"jobs": rows, "total": 1}), reply_of({"jobs": []})))
    told_at = had.unlisted["x"].submitted_at

    assert told_at is None or math.isfinite(told_at)


def test_without_a_key_nobody_is_asked() -> None:
    """The reason is told of each job, and no question is made."""
    source = source_of("omnifence", api_key=None)
    had = talk(PROVIDER, [job_of("a")], source, answers())

    assert had.questions == []
    assert had.told["a"].problem == PROVIDER.cannot_ask(job_of("a"), source) == "no api_key is configured"
    assert talk(PROVIDER, [], source, answers()).order == []


# -- answers that are none, submissions, managing -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "outcome", "detail"),
    [
        (401, "UNAUTHORIZED", "auth_blocked", "401 UNAUTHORIZED: the key is missing, wrong or disabled"),
        (402, "PAYMENT_REQUIRED", "auth_blocked", "402 PAYMENT_REQUIRED: the account has no credit left"),
        (403, "FORBIDDEN", "auth_blocked", "403 FORBIDDEN: the key lacks a scope; it needs job:read"),
        (403, "ACCOUNT_TERMINATED", "auth_blocked", "403 ACCOUNT_TERMINATED: the account is closed for good"),
        (403, "NEW_CODE", "auth_blocked", "403: the provider does not take our key"),
        (403, None, "auth_blocked", "403: the provider does not take our key"),
        (429, "RATE_LIMITED", "rate_limited", "429"),
        (500, "INTERNAL_ERROR", "unavailable", "500"),
        (503, "SERVICE_UNAVAILABLE", "unavailable", "503"),
        (302, None, "redirected", "302"),
    ],
)
def test_trouble_is_told_apart(status: int, code: str | None, outcome: str, detail: str) -> None:
    """An account closed for good, a missing scope and an empty purse are three different things to an operator."""
    trouble = PROVIDER.classify(reply_of({"error": code, "message": "", "statusCode": status}, status))

    assert trouble is not None
    assert trouble.outcome == outcome
    assert trouble.detail.startswith(detail)


@pytest.mark.parametrize("status", [200, 202, 204, 400, 404, 410, 422])
def test_answers_are_not_trouble(status: int) -> None:
    """They speak of one question, not of the provider."""
    assert PROVIDER.classify(reply_of({}, status)) is None


@pytest.mark.parametrize("modality", ["prompt", "image", "video", "chat"])
@pytest.mark.parametrize("path", ["api/v1/moderate/{}", "/api/v1/moderate/{}/", "/moderate/{}?x=1"])
def test_a_submission_tells_its_job(modality: str, path: str, source: SourceSettings) -> None:
    """Passed through, the answer's `job_id` is the job and the path its modality."""
    told = PROVIDER.submitted("POST", path.format(modality), {"job_id": "j1", "status": "queued"}, source)

    assert [(each.job_id, each.modality) for each in told] == [("j1", modality)]


@pytest.mark.parametrize(
    ("method", "path", "document"),
    [
        ("GET", "api/v1/moderate/image", {"job_id": "j1"}),
        ("POST", "api/v1/webhook/register", {"job_id": "j1"}),
        ("POST", "api/v1/moderate", {"job_id": "j1"}),
        ("POST", "api/v1/moderate/image", {"job_id": None}),
        ("POST", "api/v1/moderate/image", ["j1"]),
        ("POST", "", None),
    ],
)
def test_other_answers_tell_of_no_job(method: str, path: str, document: object, source: SourceSettings) -> None:
    """Only a submission puts a job on record."""
    assert PROVIDER.submitted(method, path, document, source) == []


def test_the_key_is_sent_as_a_bearer(source: SourceSettings) -> None:
    """Only a source with a key has credentials."""
    assert PROVIDER.auth_headers(source) == {"authorization": "Bearer key-for-tests"}
    assert PROVIDER.auth_headers(source_of("omnifence", api_key=None)) == {}
