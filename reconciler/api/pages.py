"""Serves the operator's page and what belongs to it."""

from starlette.responses import Response
from starlette.types import ASGIApp

from receiver import __version__, clock
from receiver.store.views import Row, View
from reconciler import overview, page
from reconciler.api.call import Call
from reconciler.api.routing import Answer, Route

SHOWN = 20
"""Rows in each table."""
_HEADERS = {
    "content-security-policy": page.POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


async def show_page(call: Call) -> ASGIApp:
    """The page."""
    desk = call.desk
    now = desk.clock.now()

    def look(view: View) -> tuple[overview.Overview, dict[str, list[Row]]]:
        seen = overview.look(view, now)
        return seen, {
            "overdue": view.jobs(overdue_at=now, limit=SHOWN)[0] if any(seen.overdue.values()) else [],
            "held": view.deliveries(verdict="held", limit=SHOWN)[0],
            "quarantined": view.deliveries(verdict="quarantined", limit=SHOWN)[0],
            "dead": view.messages(state="dead", limit=SHOWN)[0] if seen.messages()["dead"] else [],
            "polls": view.polls(limit=SHOWN),
        }

    seen, tables = await desk.store.read(look)
    health = desk.store.health()
    warnings = [f"Not ready: {why}." for why in desk.trouble()]
    if not health.takes_writes:
        warnings.append(f"The store takes no writes: {health.why_not}.")
    if health.spill_records:
        warnings.append(f"{health.spill_records} deliveries wait in the spill journal.")
    if health.missing:
        warnings.append(f"{health.missing} acknowledged deliveries are missing from the database.")
    sight = page.Sight(
        at=clock.text(now),
        version=__version__,
        warnings=warnings,
        sources=overview.source_rows(desk.settings, seen, now),
        outbox=seen.messages(),
        unread=seen.unread,
        **tables,
    )
    return Response(page.render(sight), headers={"content-type": "text/html; charset=utf-8", **_HEADERS})


async def show_style(call: Call) -> ASGIApp:
    """The style sheet."""
    return Response(page.asset("page.css"), headers={"content-type": "text/css; charset=utf-8", **_HEADERS})


async def show_script(call: Call) -> ASGIApp:
    """The script."""
    return Response(page.asset("page.js"), headers={"content-type": "text/javascript; charset=utf-8", **_HEADERS})


ROUTES = [
    Route(
        method="GET",
        path=path,
        handler=handler,
        summary=what,
        answers={200: Answer(what, None, media)},
        basic=True,
        tags=("page",),
    )
    for path, handler, what, media in (
        ("/", show_page, "The operator's page", "text/html"),
        ("/page/page.css", show_style, "Its style sheet", "text/css"),
        ("/page/page.js", show_script, "Its script", "text/javascript"),
    )
]
