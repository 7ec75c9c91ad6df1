"""What a wrong command line is told."""

import pytest

from holdfast.cli import main


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["run", "--nonsense"],
        ["jobs", "add"],
        ["jobs", "list", "--state", "x"],
        ["outbox", "list", "--limit", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, one readable line on stderr, and where to read on."""
    with pytest.raises(SystemExit) as ended:
        main(words)

    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert "--help" in told.err
