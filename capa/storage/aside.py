"""A second thread for what lets go of the interpreter: packing, writing, hashing."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self

__all__ = ["Aside"]

_P = ParamSpec("_P")


class Aside:
    """Does one thing at a time beside this thread, in order; memory is bounded by that.

    What goes wrong there is raised by the next call, or at the end of the block, and nothing more
    is done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "capa-aside")
        self._work: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()

    def do(self, work: Callable[_P, object], *args: _P.args, **options: _P.kwargs) -> None:
        """Begin with this, once what was begun before is done.

        Raises:
            Exception: what went wrong with what was begun before.
        """
        self.wait()
        self._work = self._thread.submit(work, *args, **options)

    def wait(self) -> None:
        """Return once all is done.

        Raises:
            Exception: what went wrong.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()
