"""The configuration file: found, read, defaults filled in, and what a source gets from it."""

from pathlib import Path

import pytest

from receiver import config
from receiver.errors import ConfigError, UsageError
from receiver.settings import ReconcileOverrides, ReconcileSettings
from tests.receiver.config_text import HERE, MODERATION, problems, read


def test_an_empty_file_is_a_configuration() -> None:
    """Everything has a default, and the defaults are the contract's."""
    settings = read("")

    assert settings.store.path == HERE / "holdfast.db"
    assert settings.store.spill_path == HERE / "holdfast.db-spill"
    assert (settings.store.spill_max_bytes, settings.store.spill_after_s) == (2**30, 1.0)
    assert (settings.intake.listen, settings.api.listen) == ("127.0.0.1:8080", "127.0.0.1:8081")
    assert (settings.intake.ack_budget_s, settings.intake.max_body_bytes) == (4.0, 5242880)
    assert (settings.intake.header_timeout_s, settings.intake.body_timeout_s) == (10.0, 10.0)
    assert (settings.intake.max_connections, settings.intake.max_waiting_bytes) == (10000, 67108864)
    assert settings.app is None
    assert settings.sources == {}
    assert settings.reconcile.model_dump() == {
        "tick_s": 1, "startup_sweep": True, "poll_min_s": 5, "poll_max_s": 300, "retry_after_max_s": 300,
        "http_timeout_s": 10, "max_answer_bytes": 5242880, "not_yet_s": 60, "not_found_polls": 3,
        "not_found_after_s": 300, "circuit_open_s": 30, "late_polls": 3,
    }  # fmt: skip
    assert settings.alerts.model_dump() == {
        "webhook_loss_share": 0.5, "webhook_loss_window_s": 3600, "webhook_loss_min_jobs": 50,
    }  # fmt: skip


def test_source_and_app_defaults_are_the_contracts() -> None:
    """Every default of contract section 10 for a source and for the application."""
    settings = read('[app]\nurl = "http://127.0.0.1:3000/x"\n' + MODERATION)
    source, app = settings.sources["moderation"], settings.app

    assert app is not None
    assert (app.timeout_s, app.max_attempts, app.retry_first_s, app.retry_max_s) == (15, 12, 5, 43200)
    assert source.name == "moderation"
    assert (source.secret_mode, source.tolerance_s, source.stale_policy) == ("equals", 300, "park")
    assert (source.sign_format, source.key_form, source.bulk_results) == ("dot", "full", "fetch")
    assert (source.hold_s, source.max_held, source.give_up_after_s) == (900, 10000, 86400)
    assert source.adopt_unregistered is True
    assert source.timeouts == {}


def test_settings_do_not_change() -> None:
    """A setting is read once; nothing rewrites it while we run."""
    settings = read(MODERATION)

    with pytest.raises(ValueError, match="frozen"):
        settings.intake.listen = "127.0.0.1:9"  # type: ignore[misc]  # the point of the test
    with pytest.raises(ValueError, match="frozen"):
        settings.sources["moderation"].hold_s = 1.0  # type: ignore[misc]  # the point of the test


def test_relative_paths_lie_beside_the_file() -> None:
    """The database, its spill and a unix socket do not depend on where we were started."""
    settings = read('[store]\nurl = "sqlite:///data/x.db"\nspill_dir = "spill"\n[intake]\nlisten = "unix:in.sock"\n')
    absolute = read('[store]\nurl = "sqlite:////var/x.db"\nspill_dir = "/var/spill"')

    assert settings.store.path == HERE / "data/x.db"
    assert settings.store.spill_path == HERE / "spill"
    assert settings.intake.address.path == "/srv/holdfast/in.sock"
    assert (absolute.store.path, absolute.store.spill_path) == (Path("/var/x.db"), Path("/var/spill"))


def test_the_named_file_is_found_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--config, then $HOLDFAST_CONFIG, then ./holdfast.toml."""
    monkeypatch.chdir(tmp_path)
    given, named, here = (tmp_path / name for name in ("given.toml", "named.toml", "holdfast.toml"))
    for file in (given, named, here):
        file.write_text("")
    env = {"HOLDFAST_CONFIG": str(named)}

    assert config.find(given, env) == given
    assert config.find(None, env) == named
    assert config.find(None, {}).absolute() == here
    assert config.find(None, {"HOLDFAST_CONFIG": ""}).absolute() == here


def test_a_missing_file_is_a_problem_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether named or not, exit 78 and a way out; a named file is never silently replaced by a default."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "holdfast.toml").write_text("")
    for path, env in ((Path("no.toml"), {}), (None, {"HOLDFAST_CONFIG": "no.toml"}), (Path("a\0b"), {})):
        with pytest.raises(ConfigError, match="no such file") as caught:
            config.load(path, env=env)
        assert caught.value.exit_code == 78
    (tmp_path / "holdfast.toml").unlink()
    monkeypatch.setattr(config, "DEFAULT_PATHS", (Path("holdfast.toml"),))
    with pytest.raises(ConfigError, match="holdfast init"):
        config.load(env={})


def test_a_file_is_read_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets and the database lie relative to the file, also when it was named by a relative path."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "token").write_text("a-long-enough-path-token\n")
    (tmp_path / "etc" / "h.toml").write_bytes(b"\xef\xbb\xbf" + (MODERATION + 'path_token = "file:token"').encode())

    settings = config.load(Path("etc/h.toml"), env={})

    token = settings.sources["moderation"].path_token
    assert token is not None
    assert token.matches(b"a-long-enough-path-token")
    assert settings.file == tmp_path / "etc" / "h.toml"
    assert settings.store.path == tmp_path / "etc" / "holdfast.db"


@pytest.mark.parametrize(("content", "message"), [(b"\xff\xfe", "not UTF-8"), (None, "cannot be read")])
def test_a_file_that_cannot_be_read_is_a_problem(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Bytes that are no text, or a folder in the file's place."""
    path = tmp_path / "h.toml"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=message):
        config.load(path, env={})


def test_the_public_door_starts_without_provider_keys() -> None:
    """need="intake" misses no api_key, application secret or API token, but its own secrets it does."""
    text = """
[api]
listen = "0.0.0.0:8081"
token = "env:API"
[app]
url = "http://127.0.0.1:3000/"
secret = "env:APP"
[sources.m]
provider = "omnifence"
api_key = "env:KEY"
path_token = "env:DOOR"
trust = "verify"
app_secret = "env:MORE"
"""
    settings = read(text, {"DOOR": "door-token"}, "intake")
    source = settings.sources["m"]

    assert source.path_token is not None
    assert source.path_token.current == "door-token"
    assert source.effective_trust() == "verify"
    assert source.trust_possible()
    assert [path for path, secret in config.secrets_of(settings) if secret.is_held] == ["sources.m.path_token"]
    with pytest.raises(ConfigError, match="env:DOOR is not set"):
        read(text, {}, "intake")
    assert {each.path for each in problems(text, {})} == {
        "api.token", "app.secret", "sources.m.api_key", "sources.m.path_token", "sources.m.app_secret",
    }  # fmt: skip


def test_a_source_is_looked_up_by_name() -> None:
    """An unknown name is wrong usage and the nearest one is named."""
    settings = read(MODERATION)

    assert settings.source("moderation").provider == "omnifence"
    with pytest.raises(UsageError, match='did you mean "moderation"') as caught:
        settings.source("moderatoin")
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="there are: none"):
        read("").source("x")


def test_every_reconcile_key_may_stand_in_a_source() -> None:
    """The same keys in both places, the source ruling."""
    assert set(ReconcileOverrides.model_fields) == set(ReconcileSettings.model_fields)
    settings = read("[reconcile]\npoll_min_s = 7\nlate_polls = 1\n" + MODERATION + "late_polls = 0\ntick_s = 0.5")

    rules = settings.sources["moderation"].reconcile(settings.reconcile)

    assert (rules.poll_min_s, rules.late_polls, rules.tick_s, rules.poll_max_s) == (7.0, 0, 0.5, 300.0)
    assert settings.reconcile.late_polls == 1


def test_pushes_go_where_the_source_says() -> None:
    """app_url and app_secret of a source over [app]; without any URL the application pulls."""
    text = '[app]\nurl = "http://127.0.0.1:1/a"\nsecret = "one"\nmax_attempts = 3\n' + MODERATION
    app = read(text).app_for(read(text).sources["moderation"])
    own = read(text + 'app_url = "http://127.0.0.1:2/b?c=d"\napp_secret = "two"')
    alone = read(MODERATION + 'app_url = "http://127.0.0.1:2/b"')

    assert app is not None
    assert (app.url, app.secret and app.secret.current) == ("http://127.0.0.1:1/a", "one")
    mine = own.app_for(own.sources["moderation"])
    assert mine is not None
    assert (mine.url, mine.secret and mine.secret.current, mine.max_attempts) == ("http://127.0.0.1:2/b?c=d", "two", 3)
    only = alone.app_for(alone.sources["moderation"])
    assert only is not None
    assert (only.url, only.secret, only.max_attempts) == ("http://127.0.0.1:2/b", None, 12)
    assert read(MODERATION).app_for(read(MODERATION).sources["moderation"]) is None
