"""Other disks than the one that is there: environments of processes whose syncs of the database are slower, or stand
still. Without a C compiler they cannot be had: NotMeasured says why.
"""

from pathlib import Path

from faults.shims import compiled


def standing_still(folder: Path, control: Path) -> dict[str, str]:
    """A disk that stands still 2 s of every 4 s, while the control file exists. Raises NotMeasured."""
    return {"LD_PRELOAD": str(compiled("disk", folder)), "STALL_CONTROL": str(control)}


def slower(folder: Path, sync_ms: float) -> dict[str, str]:
    """A disk that takes so much longer for each sync of the database. Raises NotMeasured."""
    return {"LD_PRELOAD": str(compiled("disk", folder)), "SYNC_DELAY_US": str(round(sync_ms * 1000))}
