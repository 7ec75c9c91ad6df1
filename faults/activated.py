"""Starts the product as a service manager with socket activation does: `python -m faults.activated FD ARGUMENTS`.

The listening socket becomes descriptor 3 and LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES say so (sd_listen_fds(3)). The
harness keeps its own copy of the socket, as the service manager does, so newcomers wait in the queue between two lives.
"""

import os
import sys

FIRST = 3


def main() -> None:
    """Hand the socket over and become the command line."""
    descriptor = int(sys.argv.pop(1))
    os.dup2(descriptor, FIRST)
    if descriptor != FIRST:
        os.close(descriptor)
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "intake"}
    from holdfast.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
