"""Values are read strictly: types, bounds, words, names, and what they say together."""

import itertools

import pytest

from receiver.settings import Settings
from tests.receiver.config_text import MODERATION, problems, read, told


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("true", "must be a number, not true or false"),
        ('"4"', "must be a number, not text; write it without quotes"),
        ('"four"', "must be a number, not text; "),
        ("[4]", "must be a number, not a list"),
        ("{}", "must be a number, not a table"),
        ("2026-01-01", "must be a number, not a date or time"),
        ("nan", "must be a finite number"),
        ("inf", "must be a finite number"),
        ("-inf", "must be a finite number"),
        ("0", "must be more than 0, not 0"),
        ("-0.0", "must be more than 0, not -0"),
        ("-1.5", "must be more than 0, not -1.5"),
        ("1e300", "must be at most"),
        ("1" + "0" * 400, "must be "),
    ],
)
def test_a_number_is_a_number(value: str, message: str) -> None:
    """A bool, a text, a list, nan, infinity, zero, a negative or an absurd one is no duration."""
    assert told(f"[intake]\nack_budget_s = {value}")["intake.ack_budget_s"].startswith(message)


def test_whole_numbers_and_fractions() -> None:
    """An integer does where a fraction is meant; a fraction does not where a count is meant."""
    settings = read("[intake]\nack_budget_s = 2\nbody_timeout_s = 0.5\n[retention]\njobs_days = 0.25")

    assert (settings.intake.ack_budget_s, settings.intake.body_timeout_s) == (2.0, 0.5)
    assert settings.retention.jobs_days == 0.25
    assert told("[intake]\nmax_connections = 10.0") == {
        "intake.max_connections": "must be a whole number, not a number with a fraction; "
    }


@pytest.mark.parametrize(
    "text",
    [
        "[reconcile]\nnot_yet_s = 0",
        "[reconcile]\nnot_found_after_s = 0",
        "[reconcile]\nlate_polls = 0",
        "[store]\nspill_max_bytes = 0",
        MODERATION + "hold_s = 0",
        MODERATION + "max_held = 0",
        MODERATION + "timeouts.prompt = { poll_after_s = 0, fail_after_s = 1 }",
    ],
)
def test_zero_is_taken_where_it_makes_sense(text: str) -> None:
    """Never waiting, never holding and never asking late can be wanted."""
    assert isinstance(read(text), Settings)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (f"[{table}]\n{key} = {value}", f"{table}.{key}")
        for (table, key), value in itertools.product(
            [
                ("store", "spill_after_s"), ("intake", "header_timeout_s"), ("intake", "body_timeout_s"),
                ("intake", "max_connections"), ("intake", "max_body_bytes"), ("retention", "deliveries_days"),
                ("retention", "messages_days"), ("retention", "polls_days"), ("reconcile", "tick_s"),
                ("reconcile", "poll_min_s"), ("reconcile", "http_timeout_s"), ("reconcile", "not_found_polls"),
                ("alerts", "webhook_loss_share"), ("alerts", "webhook_loss_min_jobs"),
                ("sources.x", "polls_per_min"), ("sources.x", "give_up_after_s"), ("sources.x", "tolerance_s"),
                ("sources.x", "poll_max_s"),
            ],
            [0, -1],
        )
    ],
)  # fmt: skip
def test_zero_and_negative_are_refused_where_they_make_no_sense(text: str, path: str) -> None:
    """No time at all, no retention at all, no poll ever: such values are slips."""
    text += '\nprovider = "omnifence"' if "sources" in text else ""

    assert list(told(text)) == [path]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('trust = "knwon"', 'must be "payload", "known" or "verify"; did you mean "known"?'),
        ('bulk_results = "all"', 'must be "fetch" or "list"; '),
        ('stale_policy = "PARK"', 'must be "park" or "reject"; did you mean "park"?'),
        ("trust = 3", 'must be "payload", "known" or "verify"; '),
        ('adopt_unregistered = "yes"', "must be true or false, not text; "),
        ("timeouts = 3", "must be a table, not a whole number; "),
        ("secret_header = 'a b'", "is not the name of an HTTP header; as in X-Webhook-Secret"),
        ("secret_header = ''", "is not the name of an HTTP header; as in X-Webhook-Secret"),
    ],
)
def test_a_word_is_one_of_those_allowed(key: str, message: str) -> None:
    """A bad word is told with the allowed ones, and never repeated: it may be a secret in the wrong place."""
    assert told(MODERATION + key) == {f"sources.moderation.{key.split(' ')[0]}": message}


@pytest.mark.parametrize("name", ["a.b", "a b", "ä", "", "a/b", "x" * 65])
def test_a_source_name_fits_a_url(name: str) -> None:
    """Only letters, digits, _ and -."""
    text = f"[sources.{config_key(name)}]\nprovider = 'omnifence'"

    assert [each.message for each in problems(text)] == ["is not a name for a source"]


def config_key(name: str) -> str:
    """A quoted TOML key."""
    return f'"{name}"'


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ('trust = "known"', "trust"),
        ('trust = "verify"', "trust"),
        ('secret = "literal-secret"', "secret"),
        ("ack_budget_s = 5", "ack_budget_s"),
        ("poll_min_s = 400", "poll_min_s"),
        ("poll_max_s = 1", "poll_max_s"),
        ("timeouts.x = { poll_after_s = 2, fail_after_s = 1 }", "timeouts.x.poll_after_s"),
        ('timeouts."" = { poll_after_s = 2 }', 'timeouts.""'),
    ],
)
def test_contradictions_within_a_source_are_told(keys: str, path: str) -> None:
    """What cannot work is refused at the start, at the key to blame."""
    assert list(told(MODERATION + keys)) == [f"sources.moderation.{path}"]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[intake]\nmax_body_bytes = 2\nmax_waiting_bytes = 1", "intake.max_waiting_bytes"),
        ('[app]\nurl = "http://x"\nretry_first_s = 50000', "app.retry_first_s"),
        ("[app]\nmax_attempts = 1", "app.url"),
        ("[reconcile]\npoll_max_s = 1", "reconcile.poll_min_s"),
        ('[api]\nlisten = "0.0.0.0:8081"', "api.token"),
        ('[api]\nlisten = "fd:4"', "api.token"),
        ('[api]\nlisten = "127.0.0.1:8080"', "api.listen"),
        ('[api]\nlisten = "localhost:8080"', "api.listen"),
        ('[intake]\nlisten = "0.0.0.0:8081"', "api.listen"),
        ('[intake]\nlisten = "unix:s"\n[api]\nlisten = "unix:/srv/holdfast/s"', "api.listen"),
        ('[intake]\nlisten = "fd:3"\n[api]\nlisten = "fd:03"\ntoken = "tok"', "api.listen"),
    ],
)
def test_contradictions_between_keys_are_told(text: str, path: str) -> None:
    """A public listener without a token, one address for two listeners, waits that shrink."""
    assert list(told(text)) == [path]


@pytest.mark.parametrize(
    "text",
    [
        '[api]\nlisten = "[::1]:8081"',
        '[api]\nlisten = "localhost:8081"',
        '[api]\nlisten = "unix:/run/holdfast/api.sock"',
        '[api]\nlisten = "0.0.0.0:8081"\ntoken = "some-token"',
        '[intake]\nlisten = "127.0.0.1:0"\n[api]\nlisten = "127.0.0.1:0"',
        '[intake]\nlisten = "10.0.0.1:8081"',
    ],
)
def test_listeners_that_go_together(text: str) -> None:
    """Loopback and unix sockets need no token; port 0 never clashes."""
    assert isinstance(read(text), Settings)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://db/holdfast", "not available in this version"),
        ("postgres://db/holdfast", "not available in this version"),
        ("sqlite://", "wants sqlite:///"),
        ("sqlite:///", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:////var/lib/", "names no file"),
        ("sqlite:///x.db?mode=ro", "cannot be part"),
        ("holdfast.db", "wants sqlite:///"),
        ("mysql://x", "wants sqlite:///"),
        ("", "wants sqlite:///"),
    ],
)
def test_a_store_url_names_a_database_file(url: str, message: str) -> None:
    """PostgreSQL is understood and refused with the reason; memory is no place for promises."""
    assert message in told(f'[store]\nurl = "{url}"')["store.url"]
