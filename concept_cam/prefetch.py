"""Work done ahead by threads and handed out in order; what is wrong with one item is that item's alone."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

from concept_cam.errors import ConceptCamError, ImageError, OptionError

T = TypeVar("T")
R = TypeVar("R")
Q = TypeVar("Q")


def read_ahead(
    function: Callable[[T], R], items: Iterable[T], workers: int, ahead: int
) -> Generator[tuple[T, Future[R]], None, None]:
    """Every item with what becomes of it, in order; at most ``ahead`` are under way or wait to be taken.

    Closing the iterator cancels what has not begun and waits for what has. Where ``items`` is a generator that raises, what it
    gave before is handed out first.

    Args:
        function: is called with each item, in a thread.
        items: may be a generator.
        workers: how many threads.
        ahead: how many items at most are under way or wait to be taken.

    Example:
        >>> [(item, future.result()) for item, future in read_ahead(abs, [-1, 2, -3], workers=2, ahead=2)]
        [(-1, 1), (2, 2), (-3, 3)]
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="concept-cam")
    pending: deque[tuple[T, Future[R]]] = deque()
    failures: list[Exception] = []
    try:
        for item in _until_it_raises(items, failures):
            pending.append((item, pool.submit(function, item)))
            if len(pending) >= ahead:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        pool.shutdown(cancel_futures=True)
    for failure in failures:
        raise failure


def one_by_one(
    items: Iterable[T],
    read: Callable[[T], R],
    look: Callable[[Sequence[tuple[T, R]]], Sequence[Q | ConceptCamError]],
    batch_size: int,
    workers: int,
    fail: Callable[[T, ConceptCamError], None],
) -> Generator[tuple[T, Q], None, None]:
    """Every item with what is found of it, in order; read two batches ahead at most.

    An error of the library is that of the item that it comes from, be it read or looked at: a batch that fails is looked at
    again item by item. Whatever is raised in the end, all that was found before it is handed out first.

    Args:
        items: a generator will do; what it raises is raised.
        read: done with an item, by the threads.
        look: done with so many items and what was read of each; gives something for each, or an error of that item alone.
        batch_size: how many are looked at at once.
        workers: threads.
        fail: called, when its turn comes, with an item that fails, and why; it is skipped, or ``fail`` raises.

    Raises:
        OptionError: the batch size or the number of workers is below one.
    """
    if batch_size < 1 or workers < 1:
        raise OptionError(f"batch_size is {batch_size} and workers is {workers}; expected at least 1 of each.")
    with closing(read_ahead(read, items, workers, 2 * batch_size)) as under_way:
        for batch in _batches(under_way, batch_size):
            good = [(item, value) for item, value in batch if not isinstance(value, ConceptCamError)]
            found = each_alone(look, good)
            for item, value in batch:
                outcome = value if isinstance(value, ConceptCamError) else next(found)
                if isinstance(outcome, ConceptCamError):
                    fail(item, outcome)
                else:
                    yield item, outcome


def tell(item: T, error: ConceptCamError, on_error: Callable[[T, ConceptCamError], None] | None) -> None:
    """Tell of an item that fails, if somebody listens; else raise the error. It says which item it is, if that is a file.

    Args:
        item: the item that fails; if it is a path, the error names it.
        error: why it fails.
        on_error: is called with the item and the error; if None, the error is raised.
    """
    if isinstance(item, str | os.PathLike) and not isinstance(error, ImageError):  # those say so themselves
        error = with_name(str(item), error)
    if on_error is None:
        raise error
    on_error(item, error)


def with_name(name: str, error: ConceptCamError) -> ConceptCamError:
    """The error, with the name of what it is about before its text."""
    error.args = (f"{name}: {error}", *error.args[1:])
    return error


def each_alone(
    look: Callable[[Sequence[tuple[T, R]]], Sequence[Q | ConceptCamError]], items: Sequence[tuple[T, R]]
) -> Iterator[Q | ConceptCamError]:
    """What is found of several items at once; if that fails, what is found of each alone, or its error."""
    if not items:
        return
    try:
        found: Sequence[Q | ConceptCamError] = look(items)
    except Exception as error:
        if len(items) > 1:  # memory too may do for one where it does not for all
            for item in items:
                yield from each_alone(look, [item])
            return
        if not isinstance(error, ConceptCamError):
            raise
        found = [error]
    yield from found


def together(
    look: Callable[[Sequence[tuple[T, R]]], Sequence[Q | ConceptCamError]],
    items: Sequence[tuple[T, R]],
    check: Callable[[], None],
) -> list[Q]:
    """What is found of several items at once; if that fails, the error of the first that fails alone, with its number.

    Args:
        look: gives something for each of some items, or an error of that item alone.
        items: each with what was read of it.
        check: raises what is wrong with all of them alike.
    """
    found: list[Q] = []
    for number, outcome in enumerate(each_alone(look, items), 1):
        if isinstance(outcome, ConceptCamError):
            check()
            raise outcome if len(items) == 1 else with_name(f"image {number} of {len(items)}", outcome)
        found.append(outcome)
    return found


def _batches(under_way: Iterable[tuple[T, Future[R]]], size: int) -> Iterator[list[tuple[T, R | ConceptCamError]]]:
    """Items with what was read of each, or why it was not; so many at once."""
    failures: list[Exception] = []
    batch: list[tuple[T, R | ConceptCamError]] = []
    for item, value in _until_it_raises(map(_outcome, under_way), failures):
        batch.append((item, value))
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
    for failure in failures:
        raise failure


def _outcome(under_way: tuple[T, Future[R]]) -> tuple[T, R | ConceptCamError]:
    item, future = under_way
    try:
        return item, future.result()
    except ConceptCamError as error:
        return item, error


def _until_it_raises(items: Iterable[T], failures: list[Exception]) -> Iterator[T]:
    """The items; what ends them early goes into the list, to be raised when they have been dealt with."""
    iterator = iter(items)
    while True:
        try:
            item = next(iterator)
        except StopIteration:
            return
        except Exception as error:  # noqa: BLE001  (raised when its turn comes)
            failures.append(error)
            return
        yield item
