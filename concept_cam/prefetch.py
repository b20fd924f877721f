"""Work done ahead by threads, handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import TypeVar

from concept_cam.errors import OptionError

T = TypeVar("T")
R = TypeVar("R")
E = TypeVar("E", bound=Exception)


def read_ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Generator[tuple[T, Future[R]], None, None]:
    """Every item with what becomes of it, in order; at most ``ahead`` are under way or wait to be taken.

    Closing the iterator cancels what has not begun and waits for what has.

    Example:
        >>> [(item, future.result()) for item, future in read_ahead(abs, [-1, 2, -3], workers=2, ahead=2)]
        [(-1, 1), (2, 2), (-3, 3)]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="concept-cam")
    pending: deque[tuple[T, Future[R]]] = deque()
    try:
        for item in items:
            pending.append((item, pool.submit(function, item)))
            if len(pending) >= ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


def in_batches(
    function: Callable[[T], R],
    items: Iterable[T],
    batch_size: int,
    workers: int,
    foreseen: type[E],
    on_error: Callable[[T, E], None] | None,
) -> Generator[list[tuple[T, R]], None, None]:
    """Items with what becomes of each, so many at once, in order; read two batches ahead at most.

    Args:
        function: what is done with an item, by the threads.
        items: a generator will do.
        batch_size: how many are handed out at once.
        workers: threads.
        foreseen: an error of the function that may be expected.
        on_error: called with an item that fails so, and why; it is left out. Without it the error is raised.

    Raises:
        OptionError: the batch size or the number of workers is below one.
    """
    if batch_size < 1 or workers < 1:
        raise OptionError(f"batch_size is {batch_size} and workers is {workers}; expected at least 1 of each.")
    with closing(read_ahead(function, items, workers, 2 * batch_size)) as read:
        good = _finished(read, foreseen, on_error)
        while batch := list(islice(good, batch_size)):
            yield batch


def _finished(
    read: Iterable[tuple[T, Future[R]]], foreseen: type[E], on_error: Callable[[T, E], None] | None
) -> Iterator[tuple[T, R]]:
    """Items with their results; one that fails as foreseen is told of and left out, if somebody listens."""
    for item, future in read:
        try:
            yield item, future.result()
        except foreseen as error:
            if on_error is None:
                raise
            on_error(item, error)
