"""What an operator orders by hand, the same through the API and on the command line: read again, let through, tell
again, ask again.

Every order that concerns a job is noted in its history with who gave it. Each function runs inside the caller's
transaction.
"""

from receiver import registrar
from receiver.errors import HoldfastError, sentence
from receiver.records import Delivery, DeliveryId, HistoryEntry, Job, Message
from receiver.states import Verdict
from receiver.store.base import Tx


class NotAgain(HoldfastError):  # noqa: N818 - named for what was met
    """A delivery cannot be read again as it is; the message says why."""


def read_again(tx: Tx, delivery_id: DeliveryId, now: float, who: str, *, release: bool) -> Delivery | None:
    """Have a delivery interpreted again; `release`: the operator vouches for it and for its job. None when there is no
    such delivery; raises NotAgain."""
    delivery = tx.deliveries.get(delivery_id)
    if delivery is None:
        return None
    if delivery.body is None:
        raise NotAgain(sentence("reading a delivery again", "retention has removed the body", "nothing is left"))
    if release and delivery.verdict not in (Verdict.QUARANTINED, Verdict.HELD):
        met = f"the delivery is {delivery.verdict.value}"
        raise NotAgain(sentence("releasing a delivery", met, "only quarantined and held ones are released"))
    job = tx.jobs.find(delivery.source, delivery.job_id) if delivery.job_id is not None else None
    if job is not None:
        what = "released" if release else "replayed"
        _note(tx, job, now, who, f"delivery {delivery.id} {what} ({delivery.verdict.value})", delivery_id=delivery.id)
    return registrar.release(tx, delivery_id, now, who) if release else registrar.replay(tx, delivery_id, now)


def tell_again(tx: Tx, message_id: str, now: float, who: str) -> Message | None:
    """Hand a message over again, with its id, dead or delivered. None when there is no such message."""
    message = tx.outbox.revive(message_id, now)
    job = tx.jobs.find(message.source, message.job_id) if message and message.job_id is not None else None
    if job is not None:
        _note(tx, job, now, who, f"message {message_id} to be delivered again")
    return message


def ask_again(tx: Tx, job: Job, now: float, who: str) -> None:
    """Have a job asked about by the next pass, ended or not; budget and Retry-After still rule."""
    _note(tx, job, now, who, "asked for a poll")
    registrar.make_due(tx, job, now)


def _note(tx: Tx, job: Job, now: float, who: str, note: str, *, delivery_id: DeliveryId | None = None) -> None:
    tx.jobs.note(HistoryEntry(job.source, job.job_id, now, job.state, job.state, None, who, delivery_id, note=note))
