"""Ceilings for attention: what is read in one sitting stays whole, what is not is split.

They are not for scoring. A file that is clearer whole gets a line in `EXCEPTIONS` with the reason, and a test takes
the line away again when it is no longer needed.
"""

import ast
import textwrap

import pytest

from tests.house.tree import PYTHON_FOLDERS, Source, dotted, keep, none, sources

MODULE_LINES = 350
TEST_MODULE_LINES = 700
"""A test file is a list of promises that stand each by itself; nobody has to hold the whole of it in mind."""
FUNCTION_LINES = 60
POSITIONAL = 5
NESTING = 4

EXCEPTIONS: dict[str, str] = {}
"""`path`, `path:function` -> why it is clearer as it is. Passing one ceiling excuses that place from all of them."""

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.TryStar, ast.Match)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_much(source: Source) -> list[str]:
    """Every ceiling the file passes, those with an exception left out."""
    return [f"{where}: {fault}" for where, fault in _passed(source) if _place(where) not in EXCEPTIONS]


def _place(where: str) -> str:
    path, _, rest = where.partition(":")
    return f"{path}:{rest.partition(' ')[2]}" if rest else path


def _passed(source: Source) -> list[tuple[str, str]]:
    found = []
    lines, ceiling = source.text.count("\n"), TEST_MODULE_LINES if source.package == "tests" else MODULE_LINES
    if lines > ceiling:
        found.append((source.path, f"{lines} lines; split it by duty (ceiling {ceiling})"))
    for node in ast.walk(source.tree):
        if not isinstance(node, _FUNCTIONS):
            continue
        where = f"{source.path}:{node.lineno} {node.name}"
        long = (node.end_lineno or node.lineno) - node.lineno + 1
        if long > FUNCTION_LINES:
            found.append((where, f"{long} lines; name its steps and let each be a function (ceiling {FUNCTION_LINES})"))
        if (taken := _positional(source, node)) > POSITIONAL:
            found.append((where, f"{taken} positional parameters; gather them in a record or put `*,` before the rest "
                                 f"(ceiling {POSITIONAL})"))  # fmt: skip
        if (deep := _depth(node.body)) > NESTING:
            found.append((where, f"nested {deep} deep; turn conditions round and return early (ceiling {NESTING})"))
    return found


def _positional(source: Source, node: Function) -> int:
    """How many arguments a caller may pass by place. Commands and fixtures are called by name alone."""
    if any(dotted(_undecorated(each)).endswith((".command", ".fixture")) for each in node.decorator_list):
        return 0
    if any(dotted(_undecorated(each)) == "click.command" for each in node.decorator_list):
        return 0
    if source.package == "tests" and node.name.startswith("test_"):
        return 0
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _undecorated(node: ast.expr) -> ast.expr:
    return node.func if isinstance(node, ast.Call) else node


def _depth(body: list[ast.stmt]) -> int:
    """How deep blocks nest; `elif` stands beside its `if`, and an inner function starts anew."""
    deepest = 0
    for statement in body:
        if isinstance(statement, _BLOCKS):
            deepest = max(deepest, 1 + max(_depth(inner) for inner in _inside(statement)))
    return deepest


def _inside(statement: ast.stmt) -> list[list[ast.stmt]]:
    parts: list[list[ast.stmt]] = [getattr(statement, "body", [])]
    otherwise: list[ast.stmt] = getattr(statement, "orelse", [])
    if isinstance(statement, ast.If) and len(otherwise) == 1 and isinstance(otherwise[0], ast.If):
        parts += _inside(otherwise[0])
    else:
        parts.append(otherwise)
    parts += [handler.body for handler in getattr(statement, "handlers", [])]
    parts += [case.body for case in getattr(statement, "cases", [])]
    return [*parts, getattr(statement, "finalbody", [])]


@pytest.mark.parametrize("folder", PYTHON_FOLDERS)
def test_nothing_passes_a_ceiling(folder: str) -> None:
    """Modules, functions, parameter lists and nesting stay within what one reads at a glance."""
    keep(too_much, folder)


def test_every_exception_is_still_needed() -> None:
    """What has come below the ceiling again loses its exception."""
    passed = {_place(where) for source in sources(*PYTHON_FOLDERS) for where, _ in _passed(source)}
    none([f"{place}: no longer passes a ceiling; take it out of EXCEPTIONS" for place in set(EXCEPTIONS) - passed])


def _faults(text: str, path: str = "receiver/planted.py") -> list[str]:
    return too_much(Source(path, textwrap.dedent(text)))


def test_a_planted_excess_is_found() -> None:
    """One more than each ceiling is a fault, the ceiling itself is not."""
    assert "split it" in _faults("x = 1\n" * 351)[0]
    assert _faults("x = 1\n" * 350) == []
    assert "61 lines" in _faults("def f() -> None:\n" + "    x = 1\n" * 60)[0]
    assert _faults("def f() -> None:\n" + "    x = 1\n" * 59) == []
    assert "6 positional" in _faults("def f(a, b, c, /, d, e, g): ...\n")[0]
    assert _faults("class C:\n    def f(self, a, b, c, d, e, *, f, g): ...\n") == []
    assert "nested 5" in _faults(_nested(5))[0]
    assert _faults(_nested(4)) == []


def _nested(depth: int) -> str:
    opens = ["if x:", "for y in x:", "with x:", "while x:", "if x:"]
    lines = ["    " * (level + 1) + opens[level] for level in range(depth)]
    return "\n".join(["def f(x):", *lines, "    " * (depth + 1) + "x = 1", ""])


def test_branches_beside_each_other_do_not_nest() -> None:
    """A long elif chain is as deep as one if; what handlers and cases hold counts."""
    chain = "def f(x):\n    if x:\n        a = 1\n" + "    elif x:\n        a = 2\n" * 9
    assert _faults(chain) == []
    assert _depth(_body("try:\n    x = 1\nexcept E:\n    if x:\n        x = 2\n")) == 2
    assert _depth(_body("match x:\n    case 1:\n        if x:\n            x = 2\n")) == 2


def _body(text: str) -> list[ast.stmt]:
    return ast.parse(text).body


def test_commands_and_tests_may_take_many_named_things() -> None:
    """Options and fixtures arrive by name; nobody counts them off at a call."""
    many = "a, b, c, d, e, f, g"
    assert _faults(f"@click.command()\ndef run({many}): ...\n", "holdfast/cli/planted.py") == []
    assert _faults(f"@jobs.command('add')\ndef add({many}): ...\n", "holdfast/cli/planted.py") == []
    assert _faults(f"def test_x({many}): ...\n", "tests/planted.py") == []
    assert len(_faults(f"def helper({many}): ...\n", "tests/planted.py")) == 1
