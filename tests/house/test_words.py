"""How things are written: no left-overs, no sleeps in tests, no names that belong to one machine, logs with constants.

The searches are spelled so that they do not find themselves.
"""

import ast
import re

import pytest

from tests.house.tree import PACKAGES, PYTHON_FOLDERS, Source, imports, keep, none, text_files

UNFINISHED = re.compile(
    r"\bTOD[O]\b|\bFIXM[E]\b|\bXX[X]\b|NotImplementedErro[r]|^\s*(?:pass|\.\.\.)\s*#\s*stu[b]", re.M
)
SLEEPS = re.compile(
    r"\b(?:time|asyncio|anyio|trio|gevent)[.]sleep\(|\bfrom (?:time|asyncio|anyio|trio) import .*\bslee[p]\b"
)
ONE_MACHINE = re.compile(
    r"/wor[k]/|/far[m]/|[.]librar[y]|before-sto[p]|index-ur[l]|extra-inde[x]|/roo[t]/|/tmp/brie[f]|/home/[a-z]+[/]"
    r"|\bpypi[.]org\b|pythonhoste[d]|\bclaud[e]\b|\banthropi[c]\b|\bchatgp[t]\b|\bcopilo[t]\b",
    re.IGNORECASE,
)
PROVIDERS = ("omnia", "omniai", "omnist", "omnifence")
MAY_NAME_A_PROVIDER = ("receiver/providers/", "holdfast/simulator/", "holdfast/demo/")

PUBLISHED = ("receiver/store/base.py", "receiver/providers/base.py")

_LOGGERS = ("log", "logger", "_log")
_LEVELS = ("debug", "info", "warning", "error", "exception", "critical")
_EVENT = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)+")
_NEVER_LOGGED = ("body", "headers", "payload", "token", "secret", "api_key", "authorization", "signature", "path_token")


def unfinished(source: Source) -> list[str]:
    """Marks of work that was left for later."""
    return _lines(source, UNFINISHED, "finish it, or say in the issue what is missing")


def sleeps(source: Source) -> list[str]:
    """Tests (and the scripts they start) that wait by sleeping."""
    return _lines(source, SLEEPS, "wait on an event, use tests.support.eventually, or inject a ManualClock")


def _lines(source: Source, pattern: re.Pattern[str], mend: str) -> list[str]:
    return [
        f"{source.path}:{source.text.count(chr(10), 0, found.start()) + 1}: {found[0].strip()!r}; {mend}"
        for found in pattern.finditer(source.text)
    ]


def branches_on_a_provider(source: Source) -> list[str]:
    """Comparisons with a provider's name: what differs between providers is a fact its adapter declares."""
    if source.path.startswith(MAY_NAME_A_PROVIDER):
        return []
    return [
        f"{source.path}:{node.lineno}: branches on a provider's name; let receiver/providers/base.py ask for the fact"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Compare)
        for each in ast.walk(node)
        if isinstance(each, ast.Constant) and each.value in PROVIDERS
    ]


def loose_events(source: Source) -> list[str]:
    """Log calls whose event is not a dotted constant, or that would write a body or a secret.

    Where structlog is used, that is: what runs inside somebody else's process (the client) speaks plain logging.
    """
    if not any(name.startswith("structlog") for _, name in imports(source)):
        return []
    found = []
    for node in _log_calls(source):
        where = f"{source.path}:{node.lineno}"
        if not (node.args and _is_event(node.args[0])):
            found.append(f"{where}: a log event is a dotted constant (`delivery.recorded`), data goes into fields")
        named = [each.arg for each in node.keywords if each.arg in _NEVER_LOGGED]
        found += [f"{where}: `{name}` is never logged; log a size, a digest or a reference" for name in named]
    return found


def _is_event(node: ast.expr) -> bool:
    """A dotted constant, or the name of one."""
    if isinstance(node, ast.Name):
        return node.id.isupper()
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(_EVENT.fullmatch(node.value))


def _log_calls(source: Source) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in _LEVELS
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in _LOGGERS
    ]


def without_docstring(source: Source) -> list[str]:
    """Modules that do not say what they own."""
    if not source.tree.body or ast.get_docstring(source.tree):
        return []
    return [f"{source.path}:1: no docstring; say what the module owns and what it never does"]


def without_promise(source: Source) -> list[str]:
    """Methods of the two published protocols without a docstring: it is what every implementation keeps.

    What a property is, its name and type say.
    """
    if source.path not in PUBLISHED:
        return []
    return [
        f"{source.path}:{method.lineno}: {owner.name}.{method.name} has no docstring; it is the promise"
        for owner in ast.walk(source.tree)
        if isinstance(owner, ast.ClassDef) and any(ast.unparse(base).startswith("Protocol") for base in owner.bases)
        for method in owner.body
        if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
        and not method.name.startswith("_")
        and not method.decorator_list
        and not ast.get_docstring(method)
    ]


def test_nothing_is_left_for_later() -> None:
    """No mark of unfinished work, in code or in tests."""
    keep(unfinished, *PYTHON_FOLDERS)


def test_no_test_waits_by_sleeping() -> None:
    """A test that sleeps is slow where time passes quickly and fails where it passes slowly."""
    keep(sleeps, "tests")


def test_nothing_names_one_machine() -> None:
    """Paths, hosts and tools of whoever wrote it are no part of the project."""
    none(
        [
            f"{path}:{text.count(chr(10), 0, found.start()) + 1}: {found[0]!r} belongs to one machine; the project "
            "speaks of itself alone"
            for path, text in text_files()
            for found in ONE_MACHINE.finditer(text)
        ]
    )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_code_asks_which_provider_it_is(package: str) -> None:
    """A new provider is one new file."""
    keep(branches_on_a_provider, package)


@pytest.mark.parametrize("package", PACKAGES)
def test_log_events_are_constants_without_bodies_or_secrets(package: str) -> None:
    """Events can be searched for and counted, and nothing confidential ends in a log."""
    keep(loose_events, package)


def test_every_module_says_what_it_owns() -> None:
    """The first lines of a file tell a newcomer whether to read on."""
    keep(without_docstring, *PYTHON_FOLDERS)


def test_the_published_protocols_state_their_promises() -> None:
    """Whoever writes a second store or a fifth provider finds what it has to keep."""
    keep(without_promise, "receiver")


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (unfinished, "x = 1  # TO" "DO later"),
        (unfinished, "def f():\n    raise NotImplemented" "Error"),
        (unfinished, "def f():\n    pass  # st" "ub"),
        (sleeps, "import time\ntime" ".sleep(1)"),
        (sleeps, "script = 'import asyncio; asyncio" ".sleep(2)'"),
        (sleeps, "from time import monotonic, sle" "ep"),
        (branches_on_a_provider, "if source.provider == 'omnia': pass"),
        (branches_on_a_provider, "x = 1 if name in ('omnist', 'other') else 2"),
        (loose_events, "import structlog\nlog.info(f'job {job} settled')"),
        (loose_events, "import structlog\nlog.warning('something happened')"),
        (loose_events, "from structlog import x\nlog.info('delivery.recorded', body=body)"),
        (without_docstring, "import os"),
        (without_promise, "class Store(Protocol):\n    def get(self) -> int: ..."),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(rule: object, text: str) -> None:
    """Each rule finds what it is for."""
    assert callable(rule)
    path = PUBLISHED[0] if rule is without_promise else "receiver/planted.py"
    assert len(rule(Source(path, text))) == 1


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (sleeps, "clock.advance(1.0)\nsleeper = 1"),
        (branches_on_a_provider, "BASE = {'omnia': 'https://example.com'}"),
        (loose_events, "import structlog\nlog.info('delivery.recorded', source=source, size_bytes=12)"),
        (loose_events, "import logging\nlog.info('sent %s', name)"),
        (without_docstring, ""),
    ],
)
def test_what_is_right_is_left_alone(rule: object, text: str) -> None:
    """No rule cries wolf over the usual way of doing it."""
    assert callable(rule)
    assert rule(Source("receiver/planted.py", text)) == []


def test_a_planted_machine_name_is_found() -> None:
    """Paths in any case are seen; ordinary words with the same letters are not."""
    assert ONE_MACHINE.search("see /wo" + "rk/main")
    assert ONE_MACHINE.search("pip --extra-ind" + "ex-url x")
    assert not ONE_MACHINE.search("the network/working folder, a library, frameworks/x")
