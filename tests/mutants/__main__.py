"""``make mutants``: break the safety path in a copy of the tree, one way at a time; test each.

The tests must pass on the copy as it is and fail on each broken one. One that takes four times as
long as unbroken counts as noticed, by its hanging. A breakage that can't even be imported is a
mistake in the list, and fails the run.
"""

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.mutants.breakages import BREAKAGES, Breakage

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("capa", "capad", "adapters", "tests", "configs", "deploy", "docs", "examples", "bench")
LONGEST_S, PATIENCE = 900.0, 4.0
SHRINKING_S = 90.0
"""What hypothesis may take to find the simplest example of a failure."""
PASSED, FAILED = 0, 1

Item = TypeVar("Item")
Done = TypeVar("Done")


@dataclass(frozen=True, slots=True)
class Result:
    """How a breakage fared; ``word`` is caught, hung, SURVIVED or MISTAKE."""

    breakage: Breakage
    word: str
    seconds: float
    detail: str

    @property
    def good(self) -> bool:
        """Whether a test noticed."""
        return self.word in ("caught", "hung")


def _copy(into: Path) -> Path:
    """Copy what the tests need; without byte code, which could hide a change of the same size."""
    into.mkdir()
    for name in FOLDERS:
        shutil.copytree(
            REPOSITORY / name,
            into / name,
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
    for name in ("pyproject.toml", "README.md", "Makefile", "constraints.txt", "CHANGELOG.md"):
        shutil.copy(REPOSITORY / name, into / name)
    return into


def _pytest(
    tree: Path, tests: Sequence[str], time_out_s: float = LONGEST_S
) -> tuple[int | None, str]:
    """Run tests on a copy; return pytest's exit code, None at the time-out, and what it said."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            words,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=time_out_s,
        )
    except subprocess.TimeoutExpired:
        return None, f"no end within {time_out_s:g} s"
    return done.returncode, done.stdout[-4000:] + done.stderr[-1000:]


def _tried(tree: Path, breakage: Breakage, usual_s: float) -> Result:
    file = tree / breakage.file
    whole = file.read_text()
    began_s = time.monotonic()
    file.write_text(breakage.broken(whole))
    try:
        code, said = _pytest(tree, breakage.tests, SHRINKING_S + PATIENCE * usual_s)
    finally:
        file.write_text(whole)
    word = {PASSED: "SURVIVED", FAILED: "caught", None: "hung"}.get(code, "MISTAKE")
    result = Result(breakage, word, time.monotonic() - began_s, _first_failure(said))
    _say(f"{word:8} {result.seconds:5.1f} s  {breakage.name}")
    return result


def _first_failure(said: str) -> str:
    lines = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return lines[0].partition("::")[2].partition(" - ")[0] if lines else ""


class _Copies:
    """Copies of the tree, each with a worker of its own."""

    def __init__(self, folder: Path, count: int) -> None:
        self._trees = [_copy(folder / f"copy{number}") for number in range(count)]

    def each(self, items: Iterable[Item], do: Callable[[Path, Item], Done]) -> list[Done]:
        """Do something with every item, on whichever copy is free; results in order."""
        waiting = queue.SimpleQueue[tuple[int, Item]]()
        for place in enumerate(items):
            waiting.put(place)
        results: dict[int, Done] = {}

        def work(tree: Path) -> None:
            while True:
                try:
                    number, item = waiting.get_nowait()
                except queue.Empty:
                    return
                results[number] = do(tree, item)

        threads = [threading.Thread(target=work, args=(tree,)) for tree in self._trees]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [results[number] for number in sorted(results)]


def _unbroken(tree: Path, tests: tuple[str, ...]) -> tuple[tuple[str, ...], float, str]:
    """Run tests on the copy as it is; return how long they took, and what failed."""
    began_s = time.monotonic()
    code, said = _pytest(tree, tests)
    return tests, time.monotonic() - began_s, "" if code == PASSED else said


def _table(results: Sequence[Result]) -> str:
    rows = [("breakage", "outcome", "noticed by")]
    rows += [(r.breakage.name, r.word, r.detail) for r in results]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(word.ljust(w) for word, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("words", nargs="*", help="only breakages whose name contains one of these")
    parser.add_argument("--jobs", type=int, default=2, help="copies at once (default: 2)")
    parser.add_argument("--list", action="store_true", help="print the breakages and end")
    return parser.parse_args()


def main() -> int:
    """Try the breakages; 0 if each was noticed, 1 if one survived, 2 if the tests fail by now."""
    arguments = _arguments()
    words = arguments.words or [""]
    chosen = [each for each in BREAKAGES if any(word in each.name for word in words)]
    if arguments.list:
        _say("\n".join(each.name for each in chosen))
        return 0
    with tempfile.TemporaryDirectory() as name:
        copies = _Copies(Path(name), arguments.jobs)
        tests = sorted({each.tests for each in chosen})
        _say(f"as it is: {len(tests)} groups of tests")
        groups = copies.each(tests, _unbroken)
        if failed := [said for _, _, said in groups if said]:
            _say(f"the tests fail without any breakage:\n{failed[0]}")
            return 2
        usual_s = {group: seconds for group, seconds, _ in groups}
        results = copies.each(chosen, lambda tree, one: _tried(tree, one, usual_s[one.tests]))
    _say(_table(results))
    noticed = sum(result.good for result in results)
    _say(f"{noticed} of {len(results)} breakages were noticed")
    return 0 if noticed == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
