"""Where each key of a TOML text stands. The standard library's reader gives positions for syntax errors only.

Works on text that `tomllib` has already accepted, so it skips over values instead of judging them.
"""

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]

_BLANK = re.compile(r"[ \t\r\n]*(?:#[^\n]*[ \t\r\n]*)*")
_KEY = re.compile(r"""[ \t]*([A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*""")
_STRING = re.compile(
    r'''"""(?:\\.|[^\\])*?"""(?:"{0,2})|\'\'\'.*?\'\'\'(?:'{0,2})|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}\n#]*")


def locate(text: str) -> dict[Path, int]:
    """Path of every table, key and list item -> its line, from 1. Raises ValueError on text that is no TOML."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.found


def nearest(found: dict[Path, int], path: Path) -> int | None:
    """The line of this path, or of the innermost table around it that stands in the text."""
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            return found[path[:length]]
    return None


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0] + [match.end() for match in re.finditer("\n", text)]
        self._tables: dict[Path, int] = {}
        """How many tables each array of tables has so far."""
        self.found: dict[Path, int] = {}

    def document(self) -> None:
        prefix: Path = ()
        self._blank()
        while self._at < len(self._text):
            if self._text.startswith("[", self._at):
                prefix = self._header()
            else:
                self._pair(prefix)
            self._blank()

    def _header(self) -> Path:
        line, doubled = self._line(), self._text.startswith("[[", self._at)
        self._at += 2 if doubled else 1
        keys = self._keys()
        self._expect("]]" if doubled else "]")
        path: Path = ()
        for number, key in enumerate(keys, 1):
            path = (*path, key)
            self.found.setdefault(path, line)
            if doubled and number == len(keys):
                self._tables[path] = self._tables.get(path, 0) + 1
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        self.found[path] = line
        return path

    def _pair(self, prefix: Path) -> None:
        line = self._line()
        path = prefix
        for key in self._keys():
            path = (*path, key)
            self.found.setdefault(path, line)
        self._expect("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        self._blank()
        self.found.setdefault(path, self._line())
        if self._text.startswith("[", self._at):
            self._list(path)
        elif self._text.startswith("{", self._at):
            self._inline(path)
        else:
            string = _STRING.match(self._text, self._at)
            match = string or _SCALAR.match(self._text, self._at)
            if match is None or match.end() == self._at:
                raise ValueError(f"no value in line {self._line()}")
            self._at = match.end()

    def _list(self, path: Path) -> None:
        self._expect("[")
        index = 0
        while not self._take("]"):
            self._value((*path, index))
            index += 1
            self._take(",")

    def _inline(self, path: Path) -> None:
        self._expect("{")
        while not self._take("}"):
            self._pair(path)
            self._take(",")

    def _keys(self) -> list[str]:
        keys = []
        while True:
            match = _KEY.match(self._text, self._at)
            if match is None:
                raise ValueError(f"no key in line {self._line()}")
            self._at = match.end()
            key = match.group(1)
            keys.append(tomllib.loads(f"k = {key}")["k"] if key[0] in "\"'" else key)
            if not self._text.startswith(".", self._at):
                return keys
            self._at += 1

    def _blank(self) -> None:
        match = _BLANK.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _take(self, mark: str) -> bool:
        self._blank()
        if self._at >= len(self._text):
            raise ValueError(f"the text ends before {mark}")
        if not self._text.startswith(mark, self._at):
            return False
        self._at += len(mark)
        self._blank()
        return True

    def _expect(self, mark: str) -> None:
        if not self._text.startswith(mark, self._at):
            raise ValueError(f"no {mark} in line {self._line()}")
        self._at += len(mark)

    def _line(self) -> int:
        return bisect_right(self._starts, self._at)
