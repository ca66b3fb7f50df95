"""Where in a file a key stands: the line for a problem's message.

``tomllib`` decides what is TOML and gives the values, without positions; this scanner only finds
lines, in text that ``tomllib`` has accepted. What it can't follow costs the line number, never
the verdict (docs/decisions/0002).
"""

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import yaml

__all__ = ["Path", "line_of", "toml_lines", "yaml_lines"]

Path = tuple[str | int, ...]

_BARE_END = frozenset(" \t\n\r=.]},#\"'")
_BLANK = frozenset(" \t\r\n")


def line_of(lines: Mapping[Path, int], path: Path) -> int | None:
    """Return the line of a key, or of the nearest table around it that has one."""
    for length in range(len(path), -1, -1):
        line = lines.get(path[:length])
        if line is not None:
            return line
    return None


def toml_lines(text: str) -> dict[Path, int]:
    """Map every key path of a TOML text to its line, counted from 1.

    Array elements are counted by index: the third ``[[steps]]`` is ``("steps", 2)``.
    """
    scanner = _TomlScanner(text)
    with suppress(
        IndexError, tomllib.TOMLDecodeError
    ):  # ran off the end: what was found so far still serves
        scanner.document()
    return scanner.lines


def yaml_lines(text: str) -> dict[Path, int]:
    """Map every key path of a YAML text to its line; empty if the text is not YAML."""
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    return dict(_yaml_walk(root, ())) if root is not None else {}


def _yaml_walk(node: "yaml.Node", path: Path) -> Iterator[tuple[Path, int]]:
    import yaml

    yield path, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _yaml_walk(value, (*path, str(key.value)))
            yield (*path, str(key.value)), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _yaml_walk(value, (*path, index))


class _TomlScanner:
    """One pass over the characters; ``lines`` fills as keys are met."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text.replace("\r\n", "\n") + "\n"
        self._at = 0
        self._line = 1
        self._table: Path = ()
        self._counts: dict[Path, int] = {}

    def document(self) -> None:
        """Scan to the end of the text."""
        while self._skip_blank():
            if self._peek() == "[":
                self._header()
            else:
                self._pair(self._table)

    def _peek(self, count: int = 1) -> str:
        return self._text[self._at : self._at + count]

    def _advance(self, count: int = 1) -> None:
        self._line += self._text.count("\n", self._at, self._at + count)
        self._at += count

    def _skip_blank(self) -> bool:
        """Pass white space and comments; False at the end of the text."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                self._advance(self._text.index("\n", self._at) - self._at)
            elif self._text[self._at] in _BLANK:
                self._advance()
            else:
                return True
        return False

    def _skip_spaces(self) -> None:
        while self._text[self._at] in " \t":
            self._at += 1

    def _note(self, path: Path, line: int) -> None:
        for length in range(1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _header(self) -> None:
        line = self._line
        is_array = self._peek(2) == "[["
        self._advance(2 if is_array else 1)
        parts = self._key()
        self._advance(2 if is_array else 1)
        path = (*self._resolved(parts[:-1]), parts[-1])
        if is_array:
            index = self._counts.get(path, 0)
            self._counts[path] = index + 1
            path = (*path, index)
        elif path in self._counts:
            path = (*path, self._counts[path] - 1)
        self._table = path
        self._note(path, line)

    def _resolved(self, parts: list[str]) -> Path:
        """Return the path of a header's outer tables, with the newest element of each array."""
        path: Path = ()
        for part in parts:
            path = (*path, part)
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line
        path = (*table, *self._key())
        self._note(path, line)
        self._advance()  # the "="
        self._skip_spaces()
        self._value(path)

    def _key(self) -> list[str]:
        """Read a dotted key, and stop before what ends it."""
        parts = []
        while True:
            self._skip_spaces()
            parts.append(self._quoted() if self._peek() in {'"', "'"} else self._bare())
            self._skip_spaces()
            if self._text[self._at] != ".":
                return parts
            self._advance()

    def _quoted(self) -> str:
        is_basic = self._peek() == '"'
        text = self._string()
        return tomllib.loads(f'key = "{text}"')["key"] if is_basic and "\\" in text else text

    def _bare(self) -> str:
        start = self._at
        while self._text[self._at] not in _BARE_END:
            self._at += 1
        if self._at == start:
            raise IndexError("no key here")  # never in text that tomllib accepts
        return self._text[start : self._at]

    def _value(self, path: Path) -> None:
        match self._text[self._at]:
            case '"' | "'":
                self._string()
            case "[":
                self._array(path)
            case "{":
                self._inline(path)
            case _:
                while self._text[self._at] not in ",]}\n#":
                    self._at += 1

    def _array(self, path: Path) -> None:
        self._advance()
        index = 0
        while self._skip_blank() and self._peek() != "]":
            if self._peek() == ",":
                self._advance()
                continue
            self._note((*path, index), self._line)
            self._value((*path, index))
            index += 1
        self._advance()

    def _inline(self, path: Path) -> None:
        self._advance()
        while self._skip_blank() and self._peek() != "}":
            if self._peek() == ",":
                self._advance()
                continue
            self._pair(path)
        self._advance()

    def _string(self) -> str:
        """Pass a string of any of the four kinds; return its text, escapes left as they are."""
        quote = self._peek()
        if self._peek(3) == quote * 3:
            return self._long_string(quote * 3)
        start = self._at + 1
        end = start
        while self._text[end] != quote:
            end += 2 if quote == '"' and self._text[end] == "\\" else 1
        self._at = end + 1
        return self._text[start:end]

    def _long_string(self, quotes: str) -> str:
        end = self._at + 3
        while self._text[end : end + 3] != quotes:
            end += 2 if quotes == '"""' and self._text[end] == "\\" else 1
            if end >= len(self._text):
                raise IndexError("no end of string")
        while self._text[end + 3] == quotes[0]:  # up to two quotes may touch the closing ones
            end += 1
        text = self._text[self._at + 3 : end]
        self._advance(end + 3 - self._at)
        return text
