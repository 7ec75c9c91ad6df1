"""A hundred megabytes through a real sidecar process."""

from pathlib import Path

import pytest

from faults import upload


@pytest.mark.process
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the memory of a process is read from /proc")
def test_a_large_upload_passes_at_flat_memory(tmp_path: Path) -> None:
    """The provider gets the very bytes, the job is on record, and the sidecar's peak stays where it was."""
    assert upload.run(tmp_path).faults == []
