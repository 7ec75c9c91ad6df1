"""Other disks than the one that is there: a library that makes syncs of the database slower, or stand still."""

import shutil
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("disk.c")
NO_COMPILER = "no C compiler (gcc or cc)"


def build(folder: Path) -> Path | None:
    """The library, to be preloaded; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "disk.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    done = subprocess.run(words, capture_output=True, check=False)  # noqa: S603 - our own source
    return library if done.returncode == 0 else None


def standing_still(library: Path, control: Path) -> dict[str, str]:
    """The environment of a process whose disk stands still 2 s of every 4 s, while the control file exists."""
    return {"LD_PRELOAD": str(library), "STALL_CONTROL": str(control)}


def slower(library: Path, sync_ms: float) -> dict[str, str]:
    """The environment of a process in which each sync of the database takes so much longer."""
    return {"LD_PRELOAD": str(library), "SYNC_DELAY_US": str(round(sync_ms * 1000))}
