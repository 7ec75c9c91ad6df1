"""Compiles the libraries that stand between the product and libc, and steers those that are steered while it runs.

Needs a C compiler; without one the scenarios that use them say so and count as not measured.
"""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from faults import NotMeasured

SOURCES = Path(__file__).parent / "c"
WRITE, SYNC, SIZE, MAKE, NAME, READ, HALF = (1 << bit for bit in range(7))
"""What a fault hits; see c/injector.c."""
FOR_EVER = -1


def compiled(name: str, folder: Path) -> Path:
    """The library `c/NAME.c`, compiled into a folder. Raises NotMeasured without a compiler."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise NotMeasured("there is no C compiler (cc or gcc)")
    if os.uname().sysname != "Linux":
        raise NotMeasured("it needs Linux: LD_PRELOAD and /proc")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}.so"
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCES / f"{name}.c"), "-ldl", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise NotMeasured(f"c/{name}.c does not compile here: {done.stderr.strip().splitlines()[-1]}")
    return library


class WallClock:
    """The wall clock of one process (and those it forks), to be set on and back; a context manager."""

    def __init__(self, folder: Path) -> None:
        library = compiled("clock", folder)
        control = folder / "clock-control"
        control.write_bytes(bytes(8))
        self._file = control.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 8)
        self.env = {"LD_PRELOAD": str(library), "CLOCK_CONTROL": str(control)}

    def stand(self, by_s: float) -> None:
        """From now on it is so many seconds ahead of the true one (behind, when negative)."""
        self._map[0:8] = struct.pack("<q", round(by_s * 1e9))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._map.close()
        self._file.close()


class Injector:
    """The injector for one process (and those it forks); a context manager that ends every fault."""

    def __init__(self, folder: Path, root: Path) -> None:
        """Faults hit files whose path begins with `root`; everything it needs is kept in `folder`."""
        self._skip = 0
        self._library = compiled("injector", folder)
        control = folder / "control"
        control.write_bytes(bytes(24))
        self._file = control.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), 24)
        self.env = {
            "LD_PRELOAD": str(self._library),
            "INJECT_ROOT": os.path.realpath(root),
            "INJECT_CONTROL": str(control),
        }

    def hit(self, mask: int, error: int = 0, *, skip: int = 0, left: int = FOR_EVER, wait_ms: int = 0) -> None:
        """From now on calls of this kind fail with `error` after `wait_ms`."""
        self._skip = skip
        self._map[4:24] = struct.pack("<5i", error, skip, left, 0, wait_ms)
        self._map[0:4] = struct.pack("<i", mask)

    @property
    def let_through(self) -> int:
        """How many of `skip` calls were let through."""
        return self._skip - int(struct.unpack("<i", self._map[8:12])[0])

    def mend(self) -> int:
        """No more faults; how many calls the last one hit."""
        self._map[0:4] = bytes(4)
        return self.hits

    @property
    def hits(self) -> int:
        """How many calls the present fault has hit."""
        return int(struct.unpack("<i", self._map[16:20])[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mend()
        self._map.close()
        self._file.close()
