"""Sets up the log: one line an event on stderr, JSON unless a person looks on. Bodies and secrets never get here."""

import logging
import os
import sys

import structlog


def set_up(*, debug: bool = False, quiet: bool = False) -> None:
    """Configure structlog for this process. `NO_COLOR` and `FORCE_COLOR` are obeyed. `quiet` is for commands that end
    by themselves: what they print is their answer, so only warnings are logged."""
    person = sys.stderr.isatty() or bool(os.environ.get("FORCE_COLOR"))
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if person:
        colors = not os.environ.get("NO_COLOR")
        plain = structlog.dev.plain_traceback  # the default shows local variables: bodies and headers among them
        end: list[structlog.typing.Processor] = [
            structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        ]
    else:
        end = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *end],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING if quiet else logging.INFO
        ),
        logger_factory=lambda *_names: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=not quiet,  # `run` starts quietly too, while it reads its configuration
    )
    # Libraries that log by themselves: only what an operator must see. APScheduler logs every tick.
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s", force=True)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
