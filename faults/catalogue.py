"""Every scenario with its name, its method, what must hold, and how long its two forms take. It runs nothing itself."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import (
    Result,
    application,
    clocks,
    consumers,
    day,
    disk,
    each,
    hostile,
    keeping,
    kills,
    locked,
    months,
    power,
    providers,
    restart,
    rot,
    soak,
    upload,
)

Scenario = Callable[[Path], Result]


@dataclass(frozen=True, slots=True)
class Entry:
    """One scenario of the catalogue."""

    name: str
    method: str
    must: str
    """What must hold, with its figure."""
    long: Scenario
    short: Scenario


def entries(minutes: float | None = None) -> list[Entry]:
    """All of them in order; `minutes` is how long the soak and the simulated months last (else 60 and 10)."""
    return [*_crashes(), *_disks(), *_rot(), *_keeping(), *_outside(), *_long(minutes)]


def _crashes() -> list[Entry]:
    return [
        Entry(
            "kill -9 of receive",
            "real process killed at random moments under load, ledger outside",
            "acknowledged and gone: 0; file sound",
            lambda at: kills.receive(at, 1000, warm=True),
            lambda at: kills.receive(at, 10, warm=True),
        ),
        Entry(
            "kill -9 of run",
            "the same, with an application listening",
            "each outcome told (untold 0), under one id",
            lambda at: kills.run(at, 1000, warm=True),
            lambda at: kills.run(at, 4, warm=True),
        ),
        Entry(
            "power loss",
            "every file operation and answer recorded (LD_PRELOAD); disks built from what was synced and random parts "
            "of the rest, two models",
            "bad images: 0; every acknowledged delivery in database or journal",
            lambda at: power.lose(at, points=700),
            lambda at: power.lose(at, points=60),
        ),
        Entry(
            "power loss after failed syncs",
            "the same while syncs fail now and then; what a failed sync should have kept is on no disk",
            "bad images: 0",
            lambda at: power.lose(at, points=500, failing=10),
            lambda at: power.lose(at, points=60, failing=4),
        ),
    ]


def _disks() -> list[Entry]:
    refused = "lost: 0, refused: 0; first acknowledgement ≤ 1 s after"
    kept = "lost: 0 (refusing is right); first acknowledgement ≤ 1 s after"
    return [
        Entry(
            "every operation fails",
            "start, record, spill, drain, stop; each operation fails once and for ever",
            "lost: 0; takes deliveries again without a restart",
            lambda at: each.every(at, step=1),
            lambda at: each.every(at, step=20),
        ),
        *(
            Entry(f"{name}, journal {where}", method, refused if elsewhere else kept, run, run)
            for name, method, work in (
                ("I/O errors", "12 kinds injected into a running receiver", disk.errors),
                ("disk full", "a file system filled to the last byte (needs root: mount)", disk.full),
            )
            for where, elsewhere in (("elsewhere", True), ("on the same disk", False))
            for run in [partial(work, elsewhere=elsewhere)]
        ),
        Entry("no file may grow", "RLIMIT_FSIZE", "lost: 0", disk.quota, disk.quota),
        Entry(
            "database locked",
            "a foreign BEGIN EXCLUSIVE under load, then 3 VACUUMs",
            "refused: 0; first wait ≤ 1 s, then ≤ 0.5 s",
            lambda at: locked.locked(at, 12),
            lambda at: locked.locked(at, 3),
        ),
        *(
            Entry(f"disk stalls, journal {where}", "every sync takes 2 s", must, run, run)
            for where, elsewhere, must in (
                ("elsewhere", True, "no answer later than 1 s; lost: 0, refused: 0"),
                ("on the same disk", False, "no answer later than 4.5 s; lost: 0"),
            )
            for run in [partial(locked.stalled, elsewhere=elsewhere)]
        ),
    ]


def _rot() -> list[Entry]:
    return [
        Entry(
            "bits flip",
            "one random bit in the database or its log, then a start",
            "harmful flips noticed: all",
            lambda at: rot.flips(at, 2000),
            lambda at: rot.flips(at, 100),
        ),
        Entry(
            "bad files",
            "12 kinds of spoilt file at the start, after a kill",
            "first acknowledgement ≤ 1 s; evidence whole; said in the log",
            rot.bad_files,
            rot.bad_files,
        ),
        Entry(
            "damaged while open",
            "the whole file overwritten under `run`, then kill -9 and a start",
            "nobody refused; file kept; of what was acknowledged into its log at most 2 % gone",
            rot.while_open,
            rot.while_open,
        ),
        Entry(
            "missing is told",
            "half of the log cut off",
            "log, `status` and `check` say *missing*",
            rot.told,
            rot.told,
        ),
    ]


def _keeping() -> list[Entry]:
    return [
        Entry(
            "planned restarts",
            "socket held by the harness, SIGTERM under load, a connection for each delivery",
            "failed: 0, lost: 0",
            lambda at: restart.restarts(at, 50),
            lambda at: restart.restarts(at, 5),
        ),
        Entry(
            "systemd-socket-activate",
            "the real tool hands the socket over",
            "the first connection is answered 200",
            restart.by_systemd,
            restart.by_systemd,
        ),
        Entry(
            "pruning and backup",
            "old rows pruned and `holdfast backup` at 200 deliveries a second",
            "no acknowledgement over 1 s; backup sound; protected rows stay",
            lambda at: keeping.looked_after(at, 1_000_000),
            lambda at: keeping.looked_after(at, 20_000),
        ),
        Entry(
            "forgotten reader",
            "a read transaction left open under load",
            "alarmed past 64 MiB; nobody waits over 1 s",
            keeping.forgotten_reader,
            keeping.forgotten_reader,
        ),
        Entry(
            "two receivers",
            "a second start; then kill -9 of the first",
            "exit 75; takeover",
            keeping.two,
            keeping.two,
        ),
        Entry(
            "hostile clients",
            "idle and dribbling connections, large attacks, ambiguous streams, beside honest senders",
            "honest acknowledgement ≤ 1 s; ambiguous taken: 0; memory ≤ 16 MiB more, ≤ 12 KiB a connection",
            hostile.clients,
            lambda at: hostile.clients(at, idle=1000, slow=100),
        ),
    ]


def _outside() -> list[Entry]:
    manners = ("refuses", "is silent", "answers 503")
    return [
        Entry(
            "misbehaving providers",
            "37 kinds at once against `run`: hangs, dribbles, resets, floods, bombs, waits of every form, redirects, "
            "TLS and names that fail or hang, wrong jobs",
            "decided wrongly, early questions, redirects followed, keys that left, escaped errors: 0; others slowed "
            "≤ 10 %",
            lambda at: providers.misbehaving(at, lasting_s=20.0),
            lambda at: providers.misbehaving(at, lasting_s=6.0, rounds=1),
        ),
        Entry(
            "stepped clock",
            "wall clock of the running process set -1 h, right, +1 d, right (LD_PRELOAD)",
            "no job unasked for over 2 intervals, no storm; deadlines acted on and outcomes told ≤ 2 s late",
            lambda at: clocks.stepped(at, lasting_s=10.0),
            lambda at: clocks.stepped(at, lasting_s=3.0),
        ),
        Entry(
            "application away",
            "503 to all, then 500 to one message for ever, under load",
            "the rest is told; ≤ 32 pushes at once; acknowledgements ≤ 1 s",
            lambda at: application.away(at, away_s=30.0),
            lambda at: application.away(at, away_s=1.0),
        ),
        *(
            Entry(
                f"a day without the application, which {manner}",
                "real outbox and dispatch on virtual time",
                "told: all, in order per job, one id each; ≤ 32 at once; within "
                f"{day.CAUGHT_UP_S[manner]:.0f} s of its return",
                partial(day.away, manner=manner),
                partial(day.away, manner=manner, messages=300),
            )
            for manner in manners
        ),
        Entry(
            "consumers that die",
            "many pull one outbox, die, come late and twice; the sidecar is killed under them",
            "lost: 0, held by two: 0",
            lambda at: consumers.run(at, 100, 10_000, crashes=3),
            lambda at: consumers.run(at, 20, 400, crashes=1),
        ),
        Entry(
            "a large upload",
            "100 MB of multipart through `/submit`",
            f"bytes as sent; memory ≤ {upload.GROWTH_MB} MB more",
            upload.run,
            upload.run,
        ),
    ]


def _long(minutes: float | None) -> list[Entry]:
    return [
        Entry(
            "months",
            "the real interpreter, sweep, asker, ledger and dispatch on virtual time; lost webhooks, hangs, 429s, "
            "outages, crashes",
            "without an end, untold, told twice or wrong, early questions: 0; worst lateness ≤ 120 s",
            lambda at: months.endless(at, minutes or 10.0),
            lambda at: months.endless(at, 0.1),
        ),
        Entry(
            "soak",
            "`run` (or `receive` and `reconcile`) between simulated providers and a real application; every few "
            "seconds something is killed, frozen, locked or fails",
            "lost, told twice, told wrong, acknowledged and gone: 0; memory grows ≤ 12 MiB, descriptors ≤ 10",
            lambda at: soak.soak(at, minutes or 60.0),
            lambda at: soak.soak(at, 0.5, every_s=1.5),
        ),
    ]
