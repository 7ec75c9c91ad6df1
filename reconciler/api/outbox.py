"""The outbox: claiming and acknowledging messages, looking at them, handing one over again."""

from starlette.types import ASGIApp

from receiver import byhand
from receiver.records import Message
from receiver.store.base import Tx
from receiver.store.views import Row
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.models import AckBody, ClaimBody, ExtendBody, ListMessages, Nothing
from reconciler.api.problem import ProblemError, bad_request, json_reply, not_found, raw_json
from reconciler.api.routing import Answer, Route

CLAIM_STEP = 100
"""Messages leased at once: between two steps their size is looked at."""


async def claim(call: Call) -> ASGIApp:
    """Lease messages, oldest first, at most one of each job."""
    asked = await call.body(ClaimBody)
    now, most_bytes = call.desk.clock.now(), call.desk.limits.claim_bytes

    def work(tx: Tx) -> list[Message]:
        taken: list[Message] = []
        size = 0
        while len(taken) < asked.limit and size < most_bytes:
            step = tx.outbox.claim(now, now + asked.lease_s, min(CLAIM_STEP, asked.limit - len(taken)), pull=True)
            if not step:
                break
            taken += step
            size += sum(len(message.payload) for message in step)
        return taken

    taken = await call.desk.store.write(work)
    return raw_json(f'{{"messages":[{",".join(message.payload for message in taken)}]}}'.encode())


async def ack(call: Call) -> ASGIApp:
    """Mark messages delivered. Unknown and finished ids are ignored; one whose lease ran out is still taken."""
    asked = await call.body(AckBody)
    now, ids = call.desk.clock.now(), asked.wanted
    acked = await call.desk.store.write(lambda tx: tx.outbox.delivered(ids, now, pushed=False))
    return json_reply({"acked": acked})


async def extend(call: Call) -> ASGIApp:
    """Renew the leases of messages that are still being worked on."""
    asked = await call.body(ExtendBody)
    until, ids = call.desk.clock.now() + asked.lease_s, asked.wanted
    extended = await call.desk.store.write(lambda tx: tx.outbox.extend(ids, until))
    return json_reply({"extended": extended})


async def list_messages(call: Call) -> ASGIApp:
    """A page of messages."""
    asked = call.query(ListMessages)
    job = None
    if asked.job_id is not None:
        if asked.source is None:
            raise bad_request("job_id goes together with source")
        job = (asked.source, asked.job_id)
    rows, following = await call.desk.store.read(
        lambda view: view.messages(
            source=asked.source, state=asked.state, job=job, before=asked.cursor, limit=asked.rows
        )
    )
    return json_reply({"messages": rows, "next": None if following is None else str(following)})


async def show_message(call: Call) -> ASGIApp:
    """One message."""
    return json_reply(await _message(call))


async def redeliver(call: Call) -> ASGIApp:
    """Hand a message over again, dead ones too."""
    await call.body(Nothing)
    message_id, now, who = call.path["message_id"], call.desk.clock.now(), call.who
    if await call.desk.store.write(lambda tx: byhand.tell_again(tx, message_id, now, who)) is None:
        raise _unknown(call)
    return json_reply(await _message(call))


async def _message(call: Call) -> Row:
    message_id = call.path["message_id"]
    row = await call.desk.store.read(lambda view: view.message(message_id))
    if row is None:
        raise _unknown(call)
    return row


def _unknown(call: Call) -> ProblemError:
    return not_found(f"the message {call.path['message_id'][:100]!r}")


_GONE = Answer("No such message.", shapes.ProblemShape)
_LARGE = Answer("The body is too large.", shapes.ProblemShape)
ACK_BYTES = 4 << 20

ROUTES = [
    Route(
        method="POST",
        path="/v1/outbox/claim",
        handler=claim,
        summary="Lease undelivered messages; nobody else gets them until the lease runs out",
        body=ClaimBody,
        body_may_be_absent=True,
        answers={200: Answer("The messages.", shapes.ClaimShape), 413: _LARGE},
        tags=("outbox",),
    ),
    Route(
        method="POST",
        path="/v1/outbox/ack",
        handler=ack,
        summary="Acknowledge messages that were dealt with",
        body=AckBody,
        max_body_bytes=ACK_BYTES,
        answers={200: Answer("How many.", shapes.AckShape), 413: _LARGE},
        tags=("outbox",),
    ),
    Route(
        method="POST",
        path="/v1/outbox/extend",
        handler=extend,
        summary="Renew leases",
        body=ExtendBody,
        max_body_bytes=ACK_BYTES,
        answers={200: Answer("How many.", shapes.ExtendShape), 413: _LARGE},
        tags=("outbox",),
    ),
    Route(
        method="GET",
        path="/v1/messages",
        handler=list_messages,
        summary="List messages, newest first",
        query=ListMessages,
        answers={200: Answer("A page.", shapes.MessageListShape)},
        tags=("outbox",),
    ),
    Route(
        method="GET",
        path="/v1/messages/{message_id}",
        handler=show_message,
        summary="Show one message",
        answers={200: Answer("The message.", shapes.MessageShape), 404: _GONE},
        tags=("outbox",),
    ),
    Route(
        method="POST",
        path="/v1/messages/{message_id}/redeliver",
        handler=redeliver,
        summary="Hand a message over again, dead ones too",
        body=Nothing,
        body_may_be_absent=True,
        answers={200: Answer("The message, pending again.", shapes.MessageShape), 404: _GONE, 413: _LARGE},
        tags=("outbox",),
    ),
]
