"""Looking after the record disturbs nobody, and two processes do not share what only one may have."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from faults import keeping
from receiver.store.sqlite.walfile import WAL_AGAIN_S, WAL_ALARM_BYTES, WalWatch

pytestmark = pytest.mark.process


def test_pruning_and_a_backup_hold_up_nobody(tmp_path: Path) -> None:
    """Thousands of rows go and a copy is made under load: nobody waits a second, nothing protected goes."""
    assert keeping.looked_after(tmp_path, 20_000).faults == []


def test_a_log_that_only_grows_is_told_of(tmp_path: Path) -> None:
    """Past the bound there is a warning that says what to do, once in five minutes; below it there is none."""
    wal = tmp_path / "holdfast.db-wal"
    watch = WalWatch(tmp_path / "holdfast.db")
    with capture_logs() as logs:
        watch.look(0.0)
        with wal.open("wb") as file:
            file.truncate(WAL_ALARM_BYTES - 1)
        watch.look(1.0)
        assert logs == []
        with wal.open("ab") as file:
            file.truncate(WAL_ALARM_BYTES)
        for now in (2.0, 3.0, WAL_AGAIN_S, WAL_AGAIN_S + 2.0):
            watch.look(now)

    assert [each["event"] for each in logs] == ["store.wal_grows"] * 2
    assert "read transaction" in logs[0]["todo"]


@pytest.mark.parametrize("planted", ["", "no-lock"])
def test_a_second_receiver_is_kept_out_until_the_first_is_gone(planted: str, tmp_path: Path) -> None:
    """Exit 75 while the first works, at once in its place when it was killed; without the lock both would run."""
    assert bool(keeping.two(tmp_path, planted=planted).faults) == bool(planted)


def test_two_writers_on_an_old_sqlite_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library with the WAL-reset bug: a second process that writes does not start, exit 69, and says what to do."""
    from holdfast.sidecar import refuse_second_writer
    from receiver.errors import StoreUnavailable
    from receiver.locks import RoleLock
    from receiver.settings import Settings
    from receiver.store.sqlite import driver

    settings = Settings.model_validate({"store": {"url": f"sqlite:///{tmp_path / 'holdfast.db'}"}})
    refuse_second_writer(settings, ["reconciler"])
    monkeypatch.setattr(driver, "two_writers_are_safe", lambda: False)
    refuse_second_writer(settings, ["reconciler"])
    with RoleLock(settings.store.path, "receiver"), pytest.raises(StoreUnavailable, match=r"3\.51\.3") as refused:
        refuse_second_writer(settings, ["reconciler"])
    assert refused.value.exit_code == 69
