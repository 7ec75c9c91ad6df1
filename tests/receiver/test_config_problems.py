"""Everything wrong with a configuration is told at once, where it stands, with what to do, and without secrets."""

import pytest

from receiver.errors import ConfigError
from tests.receiver.config_text import MODERATION, problems, told


def test_all_problems_are_told_at_once_each_with_its_line() -> None:
    """Wrong keys, wrong types, bad values, absent secrets and contradictions: one start tells them all."""
    text = """\
[store]
spill_mx_bytes = 3
[intake]
ack_budget_s = true
listen = "127.0.0.1:8080"
[api]
listen = "127.0.0.1:8080"
[reconcile]
poll_min_s = 500

[sources.a]
provider = "omniai"
trust = "known"
secret = ["env:NOPE", "file:nope"]
secret_header = "X-S"
polls_per_mn = 3
timeouts.prompt = { poll_after_s = 60, fail_after_s = 3 }

[sources."b c"]
provider = "omnifnce"
surprise = 1

[sources.c]
trust = "verify"
"""
    found = {(each.path, each.line) for each in problems(text)}

    assert found == {
        ("store.spill_mx_bytes", 2),
        ("intake.ack_budget_s", 4),
        ("api.listen", 7),
        ("reconcile.poll_min_s", 9),
        ("sources.a.trust", 13),
        ("sources.a.secret[0]", 14),
        ("sources.a.secret[1]", 14),
        ("sources.a.polls_per_mn", 16),
        ("sources.a.timeouts.prompt.poll_after_s", 17),
        ('sources."b c"', 19),
        ('sources."b c".provider', 20),
        ("sources.c.provider", 23),
    }


def test_problems_read_as_text_with_what_to_do() -> None:
    """The error as a person sees it: file, count, then a line each with path, line and hint."""
    one = str(ConfigError(problems("[intake]\nack_budget = 4"), file="holdfast.toml"))
    two = str(ConfigError(problems('[intake]\nack_budget = 4\nlisten = "x"'), file="holdfast.toml"))

    assert one == 'reading holdfast.toml: intake.ack_budget (line 2): is unknown; did you mean "ack_budget_s"?'
    assert two.splitlines()[0] == "reading holdfast.toml: 2 problems; put these right and start again"
    assert len(two.splitlines()) == 3


def test_a_wrong_key_does_not_make_up_further_problems() -> None:
    """What follows only from a key that is wrong itself is not told."""
    assert set(told(MODERATION + 'trust = "known"\npath_token = "env:NOPE"')) == {"sources.moderation.path_token"}
    assert set(told(MODERATION + 'trust = "verify"\napi_key = 7')) == {"sources.moderation.api_key"}
    assert set(told('[api]\nlisten = "0.0.0.0:1"\ntoken = "env:NOPE"')) == {"api.token"}
    assert set(told('[intake]\nlisten = "nonsense"\n[api]\nlisten = "127.0.0.1:8080"')) == {"intake.listen"}
    assert set(told("[reconcile]\npoll_max_s = 1\npoll_min_s = true")) == {"reconcile.poll_min_s"}


@pytest.mark.parametrize(
    ("text", "path", "hint"),
    [
        ("[inteke]\n", "inteke", 'did you mean "intake"?'),
        ("[source.x]\n", "source", 'did you mean "sources"?'),
        ("[intake]\nack_budget = 1", "intake.ack_budget", 'did you mean "ack_budget_s"?'),
        ("[intake]\nmax-body-bytes = 1", "intake.max-body-bytes", 'did you mean "max_body_bytes"?'),
        ("[intake]\nListen = 'x'", "intake.Listen", 'did you mean "listen"?'),
        ("[retention]\njob_days = 1", "retention.job_days", 'did you mean "jobs_days"?'),
        ("[intake]\ntick_s = 1", "intake.tick_s", "it belongs in [reconcile]"),
        ("[api]\nmax_body_bytes = 1", "api.max_body_bytes", "it belongs in [intake]"),
        ("poll_min_s = 1", "poll_min_s", "it belongs in [reconcile]"),
        ("[alerts]\nzzz = 1", "alerts.zzz", "known here: webhook_loss_min_jobs, "),
        (MODERATION + "zzz = 1", "sources.moderation.zzz", "config.example.toml has every key"),
        (MODERATION + "name = 'x'", "sources.moderation.name", ""),
        (MODERATION + "provder = 'x'", "sources.moderation.provder", 'did you mean "provider"?'),
        (MODERATION + "event_pointer = '/a'", "sources.moderation.event_pointer", 'provider = "standard"'),
        (MODERATION + "standard = {}", "sources.moderation.standard", ""),
        (MODERATION + "extras = {}", "sources.moderation.extras", ""),
        (
            MODERATION + "timeouts.video = { poll_after = 1 }",
            "sources.moderation.timeouts.video.poll_after",
            'did you mean "poll_after_s"?',
        ),
        ('[intake]\n"a b" = 1', 'intake."a b"', ""),
        ('[intake]\n"" = 1', 'intake.""', ""),
    ],
)
def test_an_unknown_key_is_told_with_the_nearest_known_one(text: str, path: str, hint: str) -> None:
    """A typo stops the start, names its path and what was probably meant."""
    found = told(text)

    assert list(found) == [path]
    assert "unknown" in found[path]
    assert hint in found[path]


def test_an_unknown_provider_hides_only_its_own_keys() -> None:
    """The nearest provider is named; keys it might have had are not called unknown; the others are still judged."""
    found = told('[sources.x]\nprovider = "omnifens"\nown_key = 1\nhold_s = -1\n[sources.y]\nprovider = "zzzzz"')

    assert found["sources.x.provider"] == 'is not a provider; did you mean "omnifence"?'
    assert "omnia" in found["sources.y.provider"]
    assert set(found) == {"sources.x.provider", "sources.x.hold_s", "sources.y.provider"}


def test_problems_have_no_line_when_the_table_is_absent() -> None:
    """A default that is wrong only together with another key is told where that key stands."""
    found = problems('[intake]\nlisten = "127.0.0.1:8081"')

    assert [(each.path, each.line) for each in found] == [("api.listen", None)]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("[intake]\nlisten = ", 2, "is not TOML: invalid value"),
        ("[intake", 1, "is not TOML"),
        ("a = 1\na = 2\n", 2, "is not TOML: cannot overwrite a value"),
        ("[a]\n[b]\n[a]\n", 3, "is not TOML: cannot declare"),
        ("a = 2026-02-30", 1, "is not TOML: invalid date"),
        ("a = " + "9" * 5000, None, "holds a number that cannot be read"),
        ("a = " + "[" * 5000 + "]" * 5000, None, "is nested too deeply"),
        ("a = " + "{a=" * 5000 + "1" + "}" * 5000, None, "is nested too deeply"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(text: str, line: int | None, message: str) -> None:
    """A slip of the pen is found by its line; hostile text is refused like any other."""
    found = problems(text)

    assert len(found) == 1
    assert found[0].line == line
    assert found[0].message.startswith(message)
    assert found[0].hint


def test_the_lines_are_right_in_every_way_of_writing() -> None:
    """Tables, dotted keys, inline tables, lists over several lines, quoted keys, comments with brackets, strings."""
    text = '''\
# [not.a.table]
intake.zz1 = """
[sources.x]
zz = "# no"
"""   # [comment]
"sources".'a'.provider = "omnifence"
sources.a.timeouts."vi\\u0064eo" = { poll_after_s = 1, zz2 = [ { a = 1 }, "]" ] }
sources.a.secret = [
  "env:A",   # a comment ]
  'env:B',
]

[ api ] # spaces
zz3 = \'\'\'it's ''quoted'' \'\'\'
[[zz4]]
x = 1
[[zz4]]
x = 2026-01-01 10:00:00
[retention]
zz5 = -1e9
'''
    found = {(each.path, each.line) for each in problems(text)}

    assert found == {
        ("intake.zz1", 2),
        ("sources.a.timeouts.video.zz2", 7),
        ("sources.a.secret[0]", 9),
        ("sources.a.secret[1]", 10),
        ("api.zz3", 14),
        ("zz4", 15),
        ("retention.zz5", 20),
    }


def test_a_secret_under_a_wrong_key_is_not_repeated() -> None:
    """No problem shows a text value, for any of them may be a secret."""
    precious = "precious-4711"
    text = f"""
[api]
tokn = "{precious}"
[app]
url = "https://user:{precious}@app.example.com/{precious} "
[sources.x]
provider = "{precious}"
trust = "{precious}"
hold_s = "{precious}"
base_url = "{precious}"
secret_header = "{precious} "
[sources.y]
provider = "omnifence"
path_token = "{precious}/"
timeouts = "{precious}"
"""
    assert len(problems(text)) == 9
    assert not [each for each in problems(text) if precious in str(each)]
