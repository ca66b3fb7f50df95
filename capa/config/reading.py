"""From a file's bytes to plain data and a map of its lines, or to the problem that prevents it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from capa.config.locate import Path, line_of, toml_lines, yaml_lines
from capa.config.problems import Problem, ProblemsError

__all__ = ["MAX_BYTES", "Source", "decode_text", "parse_toml", "parse_yaml", "read_bytes"]

MAX_BYTES = 1024 * 1024
"""No method, profile or experiment comes near this; a larger file is something else."""

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Source:
    """A parsed file: its data, and where each key stands."""

    file: str | None
    data: dict[str, Any]
    lines: Mapping[Path, int] = field(default_factory=dict)

    def problem(
        self,
        code: str,
        path: Path,
        message: str,
        *,
        hint: str | None = None,
        where: str | None = None,
        blocking: bool = True,
    ) -> Problem:
        """Make a problem with the line of ``path``, or of the table around it."""
        line = line_of(self.lines, path)
        return Problem(code, message, blocking, self.file, line, where, hint)


def read_bytes(path: FilePath) -> bytes:
    """Read a file of at most ``MAX_BYTES``.

    Raises:
        ProblemsError: it can't be read, or is too large to be what it is said to be.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _refusal("file.unreadable", str(path), f"can't be read: {reason}") from None
    except ValueError:  # a NUL in the name
        raise _refusal("file.unreadable", repr(str(path)), "is not a file name") from None
    if len(data) > MAX_BYTES:
        raise _refusal("file.too_large", str(path), "is larger than 1 MiB", hint=_TOO_LARGE)
    return data


_TOO_LARGE = "is it the right file? a method is rarely larger than a few KiB"


def decode_text(data: bytes, *, file: str | None) -> str:
    """Decode a file's bytes.

    Raises:
        ProblemsError: not UTF-8, a byte-order mark, or nothing but white space.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _refusal("file.encoding", file, "is UTF-16 text", line=1, hint=_SAVE_AS_UTF8)
    if data.startswith(b"\xef\xbb\xbf"):
        message = "starts with a byte-order mark"
        raise _refusal("file.bom", file, message, line=1, hint=_SAVE_AS_UTF8)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        message = f"is not UTF-8 text: byte 0x{data[error.start]:02x}"
        raise _refusal("file.encoding", file, message, line=line, hint=_SAVE_AS_UTF8) from None
    if not text.strip():
        raise _refusal("file.empty", file, "is empty", hint="was it saved, and copied to the end?")
    return text


_SAVE_AS_UTF8 = "save it as UTF-8 without a byte-order mark"


def parse_toml(text: str, *, file: str | None) -> Source:
    """Parse TOML.

    Raises:
        ProblemsError: not TOML, with the line and what stands there.
    """
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise _refusal("file.not_toml", file, "brackets are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and int() on thousands of digits
        raise _toml_refusal(str(error), text, file) from None
    return Source(file, data, toml_lines(text))


def parse_yaml(text: str, *, file: str | None) -> Source:
    """Parse YAML whose top level is a mapping.

    Raises:
        ProblemsError: not YAML, or a list or a scalar.
    """
    import yaml  # few files are, and the daemon's start-up counts every millisecond

    try:
        data = yaml.safe_load(text)
    except RecursionError:
        raise _refusal("file.not_yaml", file, "brackets are nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, KeyError) as error:
        mark = getattr(error, "problem_mark", None)
        reason = str(getattr(error, "problem", None) or error).splitlines()[0][:120]
        message = f"is not YAML: {reason}"
        line = mark.line + 1 if mark else None
        raise _refusal("file.not_yaml", file, message, line=line) from None
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise _refusal("file.not_yaml", file, "is not a list of `key: value` lines")
    return Source(file, data, yaml_lines(text))


def _toml_refusal(error: str, text: str, file: str | None) -> ProblemsError:
    place = _TOML_PLACE.search(error)
    reason = (error[: place.start()] if place else error).splitlines()[0][:120]
    lines = text.splitlines()
    at_end = place is not None and place.group(1) is None
    line = len(lines) if at_end else int(place.group(1)) if place else None
    message = f"is not TOML: {reason[:1].lower()}{reason[1:]}"
    return _refusal("file.not_toml", file, message, line=line, hint=_toml_hint(lines, line))


def _toml_hint(lines: list[str], line: int | None) -> str | None:
    """Show the line, and name the three mistakes that people make."""
    if line is None or not 0 < line <= len(lines):
        return None
    shown = lines[line - 1].strip()[:60]
    if not shown.isprintable():
        return None
    key, equals, value = shown.partition("=")
    if equals and value.strip()[:1].isalpha():
        return f'text needs quotes: {key.strip()} = "{value.strip()}"'
    if not equals and not shown.startswith(("[", "#")):
        return f"a line is `key = value` or `[table]`, not `{shown}`"
    return f"the line reads `{shown}`"


def _refusal(
    code: str, file: str | None, message: str, *, line: int | None = None, hint: str | None = None
) -> ProblemsError:
    return ProblemsError([Problem(code, message, file=file, line=line, hint=hint)])
