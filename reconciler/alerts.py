"""Tells the application when a source loses its webhooks: too many jobs had to be asked for (`alert.webhook_loss`)."""

from collections.abc import Mapping

from receiver.clock import Clock
from receiver.ledger import alert_message
from receiver.settings import AlertSettings, SourceSettings
from receiver.states import By
from receiver.store.base import Store, Tx
from receiver.store.views import View


async def watch_webhook_loss(
    store: Store, sources: Mapping[str, SourceSettings], settings: AlertSettings, clock: Clock
) -> list[str]:
    """Stage an alert for each source whose loss passed the threshold, once a window; answers their names."""
    now = clock.now()
    window_s = settings.webhook_loss_window_s
    window = int(now // window_s)

    def look(view: View) -> dict[str, dict[str, int]]:
        return {name: view.settled_since(name, now - window_s) for name in sources}

    alerted = []
    for name, settled in (await store.read(look)).items():
        jobs = sum(settled.values())
        lost = jobs - settled.get(By.WEBHOOK.value, 0)
        if jobs < settings.webhook_loss_min_jobs or lost / jobs <= settings.webhook_loss_share:
            continue
        facts = {"share": round(lost / jobs, 4), "jobs": jobs, "window_s": window_s}
        provider = sources[name].provider
        message = alert_message(name, "webhook_loss", facts, now, provider=provider, key=str(window))

        def stage(tx: Tx, message=message, name=name) -> bool:  # type: ignore[no-untyped-def]
            last = tx.meta.get(f"alert.webhook_loss.{name}")
            if last is not None and 0 <= now - float(last) < window_s:
                return False
            tx.meta.put(f"alert.webhook_loss.{name}", repr(now))
            return tx.outbox.add(message)

        if await store.write(stage):
            alerted.append(name)
    return alerted
