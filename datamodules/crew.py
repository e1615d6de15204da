"""Work done in order, in this process or by several."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Generic, TypeVar

from datamodules.dead_worker import dead_worker

Task = TypeVar("Task")
Made = TypeVar("Made")

_AHEAD = 3  # tasks for each process that are given out before their turn

_work: Callable[[Any], Any] | None = None


class Crew(Generic[Task, Made]):
    """Does tasks and gives their results out in the tasks' order. Starts when it is first asked.

    Args:
        make: makes what does a task; called once in each process, so it must be picklable where there are several.
        workers: processes; 1 works in this one.
        name: says what a task is of, for the error of a process that ends.
    """

    def __init__(
        self, make: Callable[[], Callable[[Task], Made]], workers: int, name: Callable[[Task], str] | None = None
    ) -> None:
        self._make, self._workers, self._name = make, workers, name
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
        """Do tasks; they are taken from the iterable a few ahead of the results.

        Raises:
            DataError: if a process ends by itself, naming the tasks that were in hand.
        """
        if self._workers == 1:
            for task in tasks:
                if self._here is None:
                    self._here = self._make()
                yield self._here(task)
            return
        waiting: deque[tuple[Task, Future[Made]]] = deque()
        for task in tasks:
            if self._pool is None:
                # Not forked: this process may have started the threads of torch and OpenCV.
                self._pool = ProcessPoolExecutor(
                    self._workers, get_context("spawn"), initializer=_start, initargs=(self._make,)
                )
            try:
                waiting.append((task, self._pool.submit(_do, task)))
            except BrokenProcessPool as error:  # it ended before this one was given out
                raise self._dead(waiting) from error
            if len(waiting) >= _AHEAD * self._workers:
                yield self._next(waiting)
        while waiting:
            yield self._next(waiting)

    def _next(self, waiting: deque[tuple[Task, Future[Made]]]) -> Made:
        try:
            made = waiting[0][1].result()
        except BrokenProcessPool as error:
            raise self._dead(waiting) from error
        waiting.popleft()
        return made

    def _dead(self, waiting: Iterable[tuple[Task, Future[Made]]]) -> Exception:
        # Tasks are taken in their order: the first that are not done were in hand.
        lost = [task for task, future in waiting if not future.done() or future.exception() is not None]
        return dead_worker([] if self._name is None else [self._name(task) for task in lost[: self._workers]])


def _start(make: Callable[[], Callable[[Any], Any]]) -> None:
    global _work
    _work = make()


def _do(task: Any) -> Any:
    assert _work is not None
    return _work(task)
