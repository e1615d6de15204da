"""Work done in order, in this process or by several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Made = TypeVar("Made")

_AHEAD = 3  # tasks for each process that are given out before their turn

_work: Callable[[Any], Any] | None = None


class Crew(Generic[Task, Made]):
    """Does tasks and gives their results out in the tasks' order. Starts when it is first asked.

    Args:
        make: makes what does a task; called once in each process, so it must be picklable where there are several.
        workers: processes; 1 works in this one.
    """

    def __init__(self, make: Callable[[], Callable[[Task], Made]], workers: int) -> None:
        self._make, self._workers = make, workers
        self._here: Callable[[Task], Made] | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew[Task, Made]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)

    def __call__(self, tasks: Iterable[Task]) -> Iterator[Made]:
        """Do tasks; they are taken from the iterable a few ahead of the results."""
        if self._workers == 1:
            for task in tasks:
                if self._here is None:
                    self._here = self._make()
                yield self._here(task)
            return
        waiting: deque[Future[Made]] = deque()
        for task in tasks:
            if self._pool is None:
                # Not forked: this process may have started the threads of torch and OpenCV.
                self._pool = ProcessPoolExecutor(
                    self._workers, get_context("spawn"), initializer=_start, initargs=(self._make,)
                )
            waiting.append(self._pool.submit(_do, task))
            if len(waiting) >= _AHEAD * self._workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    _work = make()


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)
