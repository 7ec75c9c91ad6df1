"""Omnist's side of its webhooks: registering, rotating, testing, and its own log of what it delivered.

Facts: providers.md 4.4 and 4.11. There is one target a workspace, so registering ours may take the webhooks away from
another application (OS-9): what is there now is read and shown first. The shape of a record in the delivery log is not
documented; the fields of a test delivery are assumed, and every one of them may be missing.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from receiver import clock, jsontext
from receiver.providers import managing
from receiver.providers.base import Question, word
from receiver.records import Delivery

if TYPE_CHECKING:
    from receiver.settings import SourceSettings

TEST_EVENT = "webhook.test"
EVENT_ID_HEADER = "x-omnist-event-id"
DELIVERY_ID_HEADER = "x-omnist-delivery-id"
OLD_SECRET_S = 30 * 3600.0
"""Longer than the 28 h between the first attempt and the last one (OS-5)."""
PAGE_SIZE = 50
_MOST_PAGES = 200
_LISTS = ("events", "deliveries", "attempts", "data", "items", "results")
_TIMES = ("last_attempt_at", "attempted_at", "delivered_at", "created_at", "timestamp")
_SECRETS = (
    ("new_signing_secret",),
    ("new_signing_secret", "secret"),
    ("webhook", "new_signing_secret"),
    ("signing_secret", "secret"),
    ("signing_secret",),
    ("secret",),
)
_SHORT = {"evt_": "event_", "del_": "delivery_"}
"""The headers and the API write the same ids with different prefixes (OS-2)."""


def _number(value: Any) -> int | None:
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else None


def _new_secret(answer: Any) -> str | None:
    found = (jsontext.text_at(answer, *path) for path in _SECRETS)
    return next((secret for secret in found if secret), None)


def _record(row: Any) -> managing.DeliveryRecord:
    times = (jsontext.text_at(row, name) for name in _TIMES)
    return managing.DeliveryRecord(
        delivery_id=jsontext.identifier(jsontext.at(row, "delivery_id")) or jsontext.identifier(jsontext.at(row, "id")),
        event_id=jsontext.identifier(jsontext.at(row, "event_id")),
        event=word(jsontext.at(row, "event_type")),
        status=word(jsontext.at(row, "delivery_status")) or word(jsontext.at(row, "status")),
        attempts=_number(jsontext.at(row, "attempt_count")),
        http_status=_number(jsontext.at(row, "last_http_status")),
        at=_instant(next((time for time in times if time), None)),
    )


def _instant(written: str | None) -> float | None:
    try:
        return clock.instant(written) if written else None
    except (ValueError, OverflowError):
        return None


def _rows(answer: Any) -> list[Any] | None:
    if isinstance(answer, list):
        return answer
    found = (jsontext.at(answer, name) for name in _LISTS)
    return next((rows for rows in found if isinstance(rows, list)), None)


def _spelled(identifier: str) -> str:
    for short, long in _SHORT.items():
        if identifier.startswith(short):
            return long + identifier.removeprefix(short)
    return identifier


def _merged(records: list[managing.DeliveryRecord]) -> tuple[managing.DeliveryRecord, ...]:
    """One record a delivery: of several attempts the one that counts most of them, which is the latest."""
    latest: dict[object, managing.DeliveryRecord] = {}
    for position, record in enumerate(records):
        identity = record.delivery_id or record.event_id or position
        known = latest.get(identity)
        if known is None or (record.attempts or 0) > (known.attempts or 0):
            latest[identity] = record
    return tuple(latest.values())


class Webhooks:
    """What Omnist offers beside its jobs."""

    def manage_setup(self, source: "SourceSettings", hook_url: str) -> managing.Managing:
        """Reads the workspace's one target, and sets it when it is another."""
        reply = yield Question(path="/v1/webhooks")
        known = managing.object_of(reply)
        if known is None and (reply is None or reply.status != 404):
            return managing.not_done("reading the webhook of the workspace", reply)
        before = jsontext.text_at(known, "webhook", "url") or None
        if before == hook_url and jsontext.at(known, "webhook", "enabled") is True:
            return managing.SetUp(changed=False, url=hook_url, previous_url=before)
        warnings = []
        if before and before != hook_url:
            warnings.append("a workspace has one target: whoever is behind the present URL gets nothing any more")
        if not hook_url.startswith("https://"):
            warnings.append("Omnist takes public https URLs only")
        reply = yield managing.Change(
            Question(path="/v1/webhooks", method="PUT", json={"url": hook_url, "enabled": True}),
            "sets this source's URL as the workspace's only webhook target, and enables it",
            before=before,
            after=hook_url,
            warnings=tuple(warnings),
        )
        answer = managing.object_of(reply)
        if answer is None:
            return managing.not_done("setting the webhook", reply)
        return managing.SetUp(changed=True, url=hook_url, previous_url=before, new_secret=_new_secret(answer))

    def manage_rotate(self, source: "SourceSettings") -> managing.Managing:
        """The new secret is told in this one answer and never again."""
        reply = yield managing.Change(
            Question(path="/v1/webhooks/rotate-signing-secret", method="POST"),
            "makes a new signing secret; the old one is no longer shown, and may or may not go on signing",
        )
        answer = managing.object_of(reply)
        secret = _new_secret(answer)
        if answer is None or secret is None:
            return managing.not_done("rotating the signing secret", reply)
        held = (jsontext.at(answer, "signing_secret"), jsontext.at(answer, "webhook", "signing_secret"), answer)
        versions = (jsontext.identifier(jsontext.at(each, "version")) for each in held)
        return managing.Rotated(secret, next((each for each in versions if each), None), OLD_SECRET_S)

    def manage_test(self, source: "SourceSettings") -> managing.Managing:
        """Queues a test delivery, which is tried at once."""
        reply = yield managing.Change(
            Question(path="/v1/webhooks/test", method="POST"), "sends one test delivery to the registered URL"
        )
        answer = managing.object_of(reply)
        sent = answer.get("delivery") if answer is not None else None
        if not isinstance(sent, dict):
            return managing.not_done("sending a test delivery", reply)
        record = _record(sent)
        return managing.TestSent(
            event=record.event or TEST_EVENT,
            event_id=record.event_id,
            delivery_id=record.delivery_id,
            status=record.status,
            attempts=record.attempts,
            http_status=record.http_status,
        )

    def gap_scan(self, source: "SourceSettings", start: float, end: float) -> managing.Scanning:
        """Reads the delivery log page by page, from 1, until one is not full. A page that comes round again, or one
        too many, ends it as incomplete."""
        window = {"start": clock.text(start), "end": clock.text(end)}
        records: list[managing.DeliveryRecord] = []
        previous: list[managing.DeliveryRecord] = []
        for page in range(1, _MOST_PAGES + 1):
            reply = yield Question(path="/v1/webhooks/events", query={"page": str(page), **window})
            answered = reply is not None and 200 <= reply.status < 300
            rows = _rows(reply.document()) if reply is not None and answered else None
            if rows is None:
                problem = "the delivery log cannot be read"
                return managing.GapScan(_merged(records), page - 1, complete=False, problem=problem)
            found = [_record(row) for row in rows]
            if found and found == previous:
                problem = "the delivery log answers the same page again"
                return managing.GapScan(_merged(records), page, complete=False, problem=problem)
            records += found
            previous = found
            if len(rows) < PAGE_SIZE:
                return managing.GapScan(_merged(records), page)
        problem = f"the delivery log has more than {_MOST_PAGES} pages in this window"
        return managing.GapScan(_merged(records), _MOST_PAGES, complete=False, problem=problem)

    def delivery_stats(self, source: "SourceSettings", start: float, end: float) -> managing.Counting:
        """Counts of attempts by hour and outcome; the names of the query's parameters are assumed from the log's."""
        query = {"bucket_minutes": "60", "start": clock.text(start), "end": clock.text(end)}
        reply = yield Question(path="/v1/webhooks/stats", query=query)
        rows = jsontext.at(managing.object_of(reply), "stats")
        if not isinstance(rows, list):
            return None
        return tuple(
            managing.StatsBucket(_instant(jsontext.text_at(row, "bucket_start")), status, attempts)
            for row in rows
            if (status := word(jsontext.at(row, "delivery_status"))) is not None
            and (attempts := _number(jsontext.at(row, "attempt_count"))) is not None
        )

    def keys_of(self, record: managing.DeliveryRecord) -> Collection[str]:
        """The event's id in both spellings: the key of what arrived is its header's."""
        if record.event_id is None:
            return ()
        short = (each + record.event_id.removeprefix(long) for each, long in _SHORT.items())
        return {record.event_id, _spelled(record.event_id), *short}

    def ids_of(self, delivery: Delivery) -> Collection[str]:
        """By its two headers, its key, and by the body of one that was never read (a parked one)."""
        named = (EVENT_ID_HEADER, DELIVERY_ID_HEADER)
        ids = {value for name, value in delivery.headers if name in named} | {delivery.event_key or ""}
        if delivery.event_key is None and delivery.body is not None:
            try:
                document = jsontext.parse_object(delivery.body)
            except jsontext.NotJson:
                document = {}
            ids |= {jsontext.identifier(document.get(name)) or "" for name in ("event_id", "id")}
        return ids - {""}

    def gaps(self, scan: managing.GapScan, arrived: Collection[str]) -> list[managing.DeliveryRecord]:
        """What the log knows and we never saw. A record without ids, or not yet tried, proves nothing."""
        here = {_spelled(identifier) for identifier in arrived}
        return [
            record
            for record in scan.records
            if (ids := {_spelled(each) for each in (record.event_id, record.delivery_id) if each})
            and not ids & here
            and record.attempts != 0
        ]
