"""Import the class that an entry point names, and say in words why that failed."""

import inspect
import pkgutil
import sys
import threading
import traceback
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, ModuleType

from capa.config.explain import did_you_mean
from capa.errors import CapaError

__all__ = [
    "PluginCode",
    "PluginImportError",
    "import_in_time",
    "import_target",
    "imported_from",
    "parts_of",
]


class PluginImportError(CapaError):
    """A plug-in's class can't be had; the message is for its author."""


class PluginCode:
    """Code of a plug-in runs in here; whatever it raises becomes words for its author.

    ``SystemExit`` and other things that are no ``Exception`` too: a plug-in does not end the
    daemon. ``KeyboardInterrupt`` is the operator's, and passes.
    """

    def __init__(self, say: Callable[[BaseException], str]) -> None:
        self._say = say

    def __enter__(self) -> None:
        """Enter."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        """Raise the words in place of what was raised."""
        if error is not None and not isinstance(error, KeyboardInterrupt | PluginImportError):
            raise PluginImportError(self._say(error)) from error


def parts_of(entry: EntryPoint) -> tuple[str, str]:
    """Split ``module.path:Class``.

    Raises:
        PluginImportError: it is not written so.
    """
    match = EntryPoint.pattern.match(entry.value)
    if match is None or not match["attr"]:
        raise PluginImportError(
            f"its entry point {entry.value!r} names no class; write module.path:Class"
        )
    return match["module"], match["attr"]


def import_target(entry: EntryPoint) -> object:
    """Import an entry point's module and return what it names there.

    Raises:
        PluginImportError: whatever went wrong.
    """
    module_name, attribute = parts_of(entry)
    with PluginCode(lambda error: _import_failure(module_name, error)):
        return _attribute(import_module(module_name), attribute)


def import_in_time(entry: EntryPoint, deadline_s: float) -> object:
    """Do as ``import_target`` does, and give up after ``deadline_s``.

    Nothing can end an import that hangs: it is left behind in a thread that does not keep the
    process alive, holding the lock of its own module only. One that hangs in C code with the
    interpreter's lock held can't even be given up.

    Raises:
        PluginImportError: whatever went wrong, or it has not returned.
    """
    module_name, _ = parts_of(entry)
    attempt = _Attempt(entry)
    thread = threading.Thread(target=attempt.make, name=f"import {module_name}", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if attempt.error is not None:
        raise attempt.error
    if not attempt.done:
        raise PluginImportError(_too_late(entry, deadline_s, thread))
    return attempt.found


class _Attempt:
    """An import in a thread, and how it ended."""

    def __init__(self, entry: EntryPoint) -> None:
        self._entry = entry
        self.found: object = None
        self.error: BaseException | None = None
        self.done = False

    def make(self) -> None:
        try:
            self.found = import_target(self._entry)
        except (PluginImportError, KeyboardInterrupt) as error:  # PluginCode lets no other out
            self.error = error
        self.done = True


def _too_late(entry: EntryPoint, deadline_s: float, thread: threading.Thread) -> str:
    module_name, _ = parts_of(entry)
    package = f" of the package {entry.dist.name}" if entry.dist is not None else ""
    return (
        f"its import did not return within {deadline_s:g} s "
        f"({entry.value}{package}{_standing_at(module_name, thread)}); a plug-in's module only "
        "defines its class: move what waits or computes there into `run`"
    )


def _standing_at(module_name: str, thread: threading.Thread) -> str:
    """Say which line of the plug-in's own an import stands at; empty if it is at none."""
    frame = sys._current_frames().get(thread.ident or 0)  # noqa: SLF001 - the documented way
    while frame is not None:
        if _is_of(module_name, frame):
            return f", at {frame.f_code.co_filename}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def imported_from(module_name: str) -> list[Path]:
    """Return the files that importing a module would run first: its packages', then its own.

    Nothing is imported to find out. An empty list: the module is not to be found.
    """
    top, *inner = module_name.split(".")
    spec = _top_spec(top)
    files = [] if spec is None else _origin(spec)
    for depth in range(len(inner)):
        places = spec.submodule_search_locations if spec else None
        spec = _spec_below(".".join([top, *inner[: depth + 1]]), list(places or ()))
        if spec is None:
            return []
        files += _origin(spec)
    return files


def _top_spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None


def _spec_below(name: str, places: list[str]) -> ModuleSpec | None:
    """Ask each folder in turn, as the import system would; folders without code add up."""
    portions: list[str] = []
    for place in places:
        finder = pkgutil.get_importer(place)
        spec = finder.find_spec(name) if finder is not None else None
        if spec is not None and spec.loader is not None:
            return spec
        portions += [] if spec is None else list(spec.submodule_search_locations or ())
    if not portions:
        return None
    namespace = ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace


def _origin(spec: ModuleSpec) -> list[Path]:
    return [Path(spec.origin).resolve()] if spec.origin and spec.has_location else []


def _attribute(module: ModuleType, path: str) -> object:
    found: object = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            classes = [n for n, value in vars(module).items() if inspect.isclass(value)]
            hint = did_you_mean(path, classes, otherwise="its classes are")
            message = f"module {module.__name__} has no {path!r}; {hint}"
            raise PluginImportError(message) from None
    return found


def _import_failure(module_name: str, error: BaseException) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        if f"{module_name}.".startswith(f"{error.name}."):
            return (
                f"there is no module {error.name!r}; compare the entry point with the names of "
                "the package's files"
            )
        return f"it imports {error.name!r}, which is not installed ({_place(module_name, error)})"
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    return f"importing it raised {text} ({_place(module_name, error)})"


def _place(module_name: str, error: BaseException) -> str:
    """Name the line of the plug-in: of bad syntax, else the last of its own that was reached.

    Else the last that is not the importer's: of a library that it imports.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    reached = list(traceback.walk_tb(error.__traceback__))[1:]
    own = [at for at in reached if _is_of(module_name, at[0])]
    theirs = [at for at in reached if not _is_importers(at[0])]
    if not (own or theirs):
        return "no line is known"
    frame, line = (own or theirs)[-1]
    return f"{frame.f_code.co_filename}, line {line}"


def _is_of(module_name: str, frame: FrameType) -> bool:
    """Whether a frame is of the package that a module is in."""
    top = module_name.partition(".")[0]
    return f"{frame.f_globals.get('__name__')}.".startswith(f"{top}.")


def _is_importers(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return file.startswith("<frozen") or "importlib" in file
