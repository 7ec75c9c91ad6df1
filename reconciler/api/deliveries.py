"""Deliveries: what came in, raw, and an operator's second look at it."""

import base64

from starlette.types import ASGIApp

from receiver import byhand
from receiver.records import DeliveryId
from receiver.store.views import Row
from reconciler.api import shapes
from reconciler.api.call import Call
from reconciler.api.models import ListDeliveries, Nothing
from reconciler.api.problem import ProblemError, json_reply, not_found
from reconciler.api.routing import Answer, Route


async def list_deliveries(call: Call) -> ASGIApp:
    """A page of deliveries, without bodies."""
    asked = call.query(ListDeliveries)
    rows, following = await call.desk.store.read(
        lambda view: view.deliveries(
            source=asked.source,
            verdict=asked.verdict,
            start=asked.start,
            end=asked.end,
            before=asked.cursor,
            page=asked.page,
            limit=asked.rows,
        )
    )
    return json_reply({"deliveries": rows, "page": asked.page, "next": None if following is None else str(following)})


async def show_delivery(call: Call) -> ASGIApp:
    """One delivery, whole."""
    delivery_id = _id(call)
    row = await call.desk.store.read(lambda view: view.delivery(delivery_id))
    if row is None:
        raise _unknown(call)
    return json_reply(with_body(row))


def with_body(row: Row) -> Row:
    """The body as text where it is text, and its exact bytes in any case."""
    body: bytes | None = row["body"]
    shown = {name: value for name, value in row.items() if name != "body"}
    shown["body_base64"] = None if body is None else base64.b64encode(body).decode("ascii")
    if body is not None:
        try:
            shown["body"] = body.decode("utf-8")
        except UnicodeDecodeError:
            return shown
    return shown


async def replay(call: Call) -> ASGIApp:
    """Interpret a delivery again."""
    return await _again(call, released=False)


async def release(call: Call) -> ASGIApp:
    """Let a quarantined or held delivery through."""
    return await _again(call, released=True)


async def _again(call: Call, *, released: bool) -> ASGIApp:
    await call.body(Nothing)
    delivery_id, now, who = _id(call), call.desk.clock.now(), call.who

    try:
        delivery = await call.desk.store.write(
            lambda tx: byhand.read_again(tx, delivery_id, now, who, release=released)
        )
    except byhand.NotAgain as problem:
        raise ProblemError(409, str(problem)) from None
    if delivery is None:
        raise _unknown(call)
    call.desk.poke(delivery.source)
    row = await call.desk.store.read(lambda view: view.delivery(delivery_id))
    if row is None:
        raise _unknown(call)
    return json_reply({name: value for name, value in row.items() if name != "body"})


def _id(call: Call) -> DeliveryId:
    written = call.path["delivery_id"]
    if not (written.isascii() and written.isdigit() and len(written) <= 19) or int(written) >= 1 << 63:
        raise _unknown(call)
    return DeliveryId(int(written))


def _unknown(call: Call) -> ProblemError:
    return not_found(f"the delivery {call.path['delivery_id'][:100]!r}")


_GONE = Answer("No such delivery.", shapes.ProblemShape)
_LARGE = Answer("The body is too large.", shapes.ProblemShape)
_AGAIN = {
    200: Answer("It will be read again.", shapes.DeliveryShape),
    404: _GONE,
    409: Answer("It cannot be read again as it is.", shapes.ProblemShape),
    413: _LARGE,
}

ROUTES = [
    Route(
        method="GET",
        path="/v1/deliveries",
        handler=list_deliveries,
        summary="List deliveries, newest first",
        query=ListDeliveries,
        answers={200: Answer("A page.", shapes.DeliveryListShape)},
        tags=("deliveries",),
    ),
    Route(
        method="GET",
        path="/v1/deliveries/{delivery_id}",
        handler=show_delivery,
        summary="Show one delivery with its raw body",
        answers={200: Answer("The delivery.", shapes.DeliveryBodyShape), 404: _GONE},
        tags=("deliveries",),
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{delivery_id}/replay",
        handler=replay,
        summary="Interpret a delivery again",
        body=Nothing,
        body_may_be_absent=True,
        answers=_AGAIN,
        tags=("deliveries",),
    ),
    Route(
        method="POST",
        path="/v1/deliveries/{delivery_id}/release",
        handler=release,
        summary="Let a quarantined or held delivery through: an operator vouches for it",
        body=Nothing,
        body_may_be_absent=True,
        answers=_AGAIN,
        tags=("deliveries",),
    ),
]
