"""What the provider tests share: a source, a job, a delivery, and a conversation with an asking generator.

No network and no clock: a provider's server is a function from a question to a reply.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from typing import Any

from receiver import jsontext
from receiver.providers import provider_named
from receiver.providers.base import Finding, Provider, Question, RawRequest, Reading, Reply, Said
from receiver.records import Job
from receiver.secrets import Secret
from receiver.settings import SourceSettings
from tests.support import START

Server = Callable[[Question], Reply]


def source_of(provider: str, **keys: Any) -> SourceSettings:
    """A source with an api_key, unless `api_key=None` is said."""
    given: dict[str, Any] = {"api_key": "key-for-tests", **keys}
    if provider_named(provider).default_base_url is None:
        given = {"base_url": "https://api.example.com", **given}
    return SourceSettings.named(
        "src", provider=provider, **{key: each for key, each in given.items() if each is not None}
    )


def with_secret(source: SourceSettings, *secrets: str, header: str | None, mode: str = "equals") -> SourceSettings:
    """The source with a secret to check, also where the configuration would refuse one."""
    update = {"secret": Secret.literal(*secrets), "secret_header": header, "secret_mode": mode}
    return source.model_copy(update=update)


def job_of(job_id: str, **facts: Any) -> Job:
    """A pending job registered at START."""
    return Job(source="src", job_id=job_id, **{"registered_at": START, **facts})


def delivered(document: Any, *headers: tuple[str, str]) -> RawRequest:
    """A delivery of this document."""
    return RawRequest(headers=headers, body=json.dumps(document).encode())


def read(provider: Provider, document: Any, source: SourceSettings, *headers: tuple[str, str]) -> Reading:
    """What the provider understands of a delivery, parsed as intake parses it."""
    request = delivered(document, *headers)
    return provider.read(request, jsontext.parse_object(request.body), source)


def reply_of(document: Any = None, status: int = 200, now: float = START, **headers: str) -> Reply:
    """An answer; keyword `retry_after` becomes the header `retry-after`. `document` may be raw bytes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Reply(status=status, headers=named, body=body, now=now)


@dataclass
class Talk:
    """A conversation: what was asked and found, in order, and how it ended."""

    questions: list[Question] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    order: list[Question | Finding] = field(default_factory=list)
    trouble: str | None = None

    @property
    def told(self) -> dict[str, Finding]:
        """The findings about jobs that were asked about, by id; AssertionError when one was told of twice."""
        asked = [finding for finding in self.findings if not finding.unlisted]
        by_id = {finding.job_id: finding for finding in asked}
        assert len(by_id) == len(asked)
        return by_id

    @property
    def unlisted(self) -> dict[str, Finding]:
        """The findings about other jobs, by id; AssertionError when one was told of twice."""
        others = [finding for finding in self.findings if finding.unlisted]
        by_id = {finding.job_id: finding for finding in others}
        assert len(by_id) == len(others)
        return by_id

    @property
    def singles(self) -> list[str | None]:
        """The ids asked about singly, in order."""
        return [question.job_id for question in self.questions if question.job_id is not None]


def talk(provider: Provider, jobs: Sequence[Job], source: SourceSettings, server: Server, *, most: int = 1000) -> Talk:
    """Run `ask` to its end as the sweep does; a reply that `classify` calls trouble closes the generator.

    AssertionError when it wants more than `most` questions.
    """
    had = Talk()
    asking = provider.ask(jobs, source, START)
    send: Reply | None = None
    while True:
        try:
            item = asking.send(send)
        except StopIteration:
            return had
        had.order.append(item)
        send = None
        if isinstance(item, Finding):
            had.findings.append(item)
            continue
        had.questions.append(item)
        assert len(had.questions) <= most, "asks without end"
        send = server(item)
        trouble = provider.classify(send)
        if trouble is not None:
            had.trouble = trouble.outcome
            asking.close()
            return had


def answers(*replies: Reply) -> Server:
    """A server that gives these answers in turn, whatever is asked."""
    left: Iterator[Reply] = iter(replies)
    return lambda question: next(left)


def said_by(value: Any) -> Any:
    """A record as plain data: its fields that differ from their defaults. What sample files are written in."""
    if is_dataclass(value):
        told = {}
        for each in fields(value):
            mine = getattr(value, each.name)
            default = each.default_factory() if each.default_factory is not MISSING else each.default
            if mine != default:
                told[each.name] = said_by(mine)
        return told
    if isinstance(value, Said | Reading):
        return {
            name: said_by(mine)
            for name, mine in zip(value._fields, value, strict=True)
            if name not in value._field_defaults or mine != value._field_defaults[name]
        }
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: said_by(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [said_by(each) for each in value]
    return value
