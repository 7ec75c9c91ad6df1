"""How the interpreter is set for a process that serves: between one event loop and one writer thread."""

import gc
import sys

SWITCH_S = 0.001
"""How long a thread may keep the interpreter's lock while another waits for it. With the usual 5 ms the writer waits
longer for the lock than for the disk; below 1 ms nothing more is won."""
GARBAGE_AFTER = 10_000
"""New objects between two looks for garbage. Requests leave hardly any cycles, and each look walks over all of them;
but what one look meets too early waits for a hundred more, and is memory meanwhile."""


def settle_in() -> None:
    """Once everything is loaded and before the first request."""
    sys.setswitchinterval(SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER, 10, 10)
