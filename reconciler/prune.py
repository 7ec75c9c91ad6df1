"""Retention: forgets what is old enough, in steps so small that intake never waits for one."""

import asyncio
from collections.abc import Callable, Mapping

from receiver.clock import Clock
from receiver.settings import RetentionSettings, SourceSettings
from receiver.store.base import Retention, Store

STEP = 200
"""Rows a table and transaction."""
DAY_S = 86_400.0
LEAST_KEY_S = 3 * DAY_S
"""A deduplication key lives at least so long past its sender's retry horizon, whatever the retention says."""


def retention(settings: RetentionSettings, sources: Mapping[str, SourceSettings], now: float) -> Retention:
    """The instants before which things may go. A key goes no earlier than its delivery and its sender's last repeat."""
    return Retention(
        deliveries_before=now - settings.deliveries_days * DAY_S,
        messages_before=now - settings.messages_days * DAY_S,
        jobs_before=now - settings.jobs_days * DAY_S,
        polls_before=now - settings.polls_days * DAY_S,
        keys_before={
            name: now - max(settings.deliveries_days * DAY_S, source.facts.key_horizon_s + LEAST_KEY_S)
            for name, source in sources.items()
        },
        held_before={name: now - source.hold_s for name, source in sources.items()},
    )


async def prune(
    store: Store,
    settings: RetentionSettings,
    sources: Mapping[str, SourceSettings],
    clock: Clock,
    progress: Callable[[dict[str, int]], None] = lambda gone: None,
) -> dict[str, int]:
    """Forget everything that may go; answers the rows gone by table. Raises StoreUnavailable."""
    limits = retention(settings, sources, clock.now())
    total: dict[str, int] = {}
    while True:
        gone = await store.write(lambda tx: tx.meta.prune(limits, STEP))
        if not gone:
            return total
        for table, rows in gone.items():
            if rows:
                total[table] = total.get(table, 0) + rows
        progress(total)
        await asyncio.sleep(0.005)  # let deliveries and other work go first
