"""Those who read and edit: this process alone, or a pool of others, which load their engine once for all shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from types import TracebackType
from typing import Any, TypeVar

from datamodules.dead_worker import dead_worker
from datamodules.index import ShardIndex
from datamodules.synthesis.work import Result
from datamodules.text_removal.editing import TextEditor
from datamodules.text_removal.planning import Erasure
from datamodules.text_removal.worker import edit, make_editor, read, start_worker
from datamodules.text_spans import PictureText

Edit = tuple[int, PictureText, tuple[Erasure, ...]]
"""A sample's number, the text of its picture, and what to fill."""

_T = TypeVar("_T")


class Crew:
    """Reads and edits samples, in this process or in several others; results come in any order.

    Args:
        workers: processes; 1 works in this one.
        arguments: of :func:`datamodules.text_removal.worker.make_editor`.
    """

    def __init__(self, workers: int, arguments: tuple[Any, ...]) -> None:
        self.workers, self._arguments = workers, arguments
        self._editor: TextEditor | None = None
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=error is None, cancel_futures=True)

    def read(self, rows: Sequence[int]) -> Iterator[tuple[int, PictureText | None]]:
        """Read the pictures of samples, by their numbers in the index.

        Raises:
            DataError: if a process ends by itself, naming the samples that were in hand.
        """
        if self.workers == 1:
            for row in rows:
                yield row, self._alone().read(row)
        else:
            yield from self._results(read, [(row,) for row in rows])

    def edit(self, edits: Sequence[Edit]) -> Iterator[tuple[int, Result]]:
        """Edit samples.

        Raises:
            DataError: if a process ends by itself, naming the samples that were in hand.
        """
        if self.workers == 1:
            for one in edits:
                yield one[0], self._alone().edit(*one)
        else:
            yield from self._results(edit, edits)

    def _alone(self) -> TextEditor:
        if self._editor is None:
            self._editor = make_editor(*self._arguments)
        return self._editor

    def _results(self, work: Callable[..., _T], calls: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, _T]]:
        if self._pool is None and calls:
            # Not forked: this process may have started the threads of torch, OpenCV and onnxruntime.
            self._pool = ProcessPoolExecutor(
                self.workers, get_context("spawn"), initializer=start_worker, initargs=self._arguments
            )
        futures: dict[Future[_T], int] = {}
        try:
            for call in calls:
                assert self._pool is not None
                futures[self._pool.submit(work, *call)] = call[0]
            for future in as_completed(list(futures)):
                made = future.result()
                yield futures.pop(future), made
        except BrokenProcessPool as error:
            raise dead_worker(self._in_hand(futures)) from error

    def _in_hand(self, futures: dict[Future[_T], int]) -> list[str]:
        """Names of the samples that were worked on: calls are taken in their order."""
        index: ShardIndex = self._arguments[0]
        lost = [row for future, row in futures.items() if not future.done() or future.exception() is not None]
        return [
            f"{index.shards[int(index.shard[row])].name}, sample {index.keys[row]!r}" for row in lost[: self.workers]
        ]
