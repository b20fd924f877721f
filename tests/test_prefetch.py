"""Work ahead: in order, what is finished comes first, and what is wrong with one item is that item's alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from concept_cam.errors import BackboneError, ImageError, NoSpatialGradient, UnknownWord
from concept_cam.prefetch import each_alone, one_by_one, read_ahead, tell, together


def read(item):
    if isinstance(item, Exception):
        raise item
    return item


def look(batch):
    """Of a batch, if no item of it is negative."""
    bad = [value for _, value in batch if value < 0]
    if bad:
        raise NoSpatialGradient(f"{bad[0]} is blank")
    return [10 * value for _, value in batch]


def outcomes(items, batch_size=4, listen=True, looking=look):
    """All that is handed out, in order: results, errors that are told, and what ends it."""
    found = []
    on_error = (lambda item, error: found.append((item, str(error)))) if listen else None
    try:
        for pair in one_by_one(items, read, looking, batch_size, 2, lambda item, error: tell(item, error, on_error)):
            found.append(pair)
    except Exception as error:  # noqa: BLE001
        found.append(error)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("concept-cam")]
    return found


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_everything_comes_in_order(batch_size):
    damaged = ImageError("damaged")
    items = [1, damaged, 2, -3, 4, -5, damaged, damaged, 6]
    assert outcomes(items, batch_size) == [
        (1, 10),
        (damaged, "damaged"),
        (2, 20),
        (-3, "-3 is blank"),
        (4, 40),
        (-5, "-5 is blank"),
        (damaged, "damaged"),
        (damaged, "damaged"),
        (6, 60),
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("bad", [-3, ImageError("damaged")], ids=["looked at", "read"])
def test_what_was_finished_comes_before_an_error_that_nobody_listens_to(batch_size, bad):
    *found, error = outcomes([1, 2, bad, 4], batch_size, listen=False)
    assert found == [(1, 10), (2, 20)]
    assert isinstance(error, NoSpatialGradient | ImageError)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [0, 1, 5, 20])
def test_what_was_finished_comes_before_what_a_generator_raises(batch_size, count):
    """An error of the library's kind too: it is not that of an item."""

    def items(error):
        yield from range(count)
        raise error

    for raised in (ZeroDivisionError("theirs"), ImageError("theirs")):
        *found, error = outcomes(items(raised), batch_size)
        assert found == [(k, 10 * k) for k in range(count)]
        assert error is raised


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_what_is_not_foreseen_is_raised_after_what_was_finished(batch_size):
    *found, error = outcomes([1, 2, 3, ZeroDivisionError("read"), 4], batch_size)
    assert found == [(1, 10), (2, 20), (3, 30)]
    assert isinstance(error, ZeroDivisionError)

    def fails(batch):
        if any(value == 3 for _, value in batch):
            raise ZeroDivisionError("looked at")
        return look(batch)

    *found, error = outcomes([1, 2, 3, 4], batch_size, looking=fails)
    assert found == [(1, 10), (2, 20)]
    assert str(error) == "looked at"


def test_what_does_not_fit_into_memory_together_may_fit_alone():
    def narrow(batch):
        if len(batch) > 1:
            raise MemoryError
        return look(batch)

    assert outcomes([1, -2, 3], looking=narrow) == [(1, 10), (-2, "-2 is blank"), (3, 30)]


def test_a_batch_is_looked_at_once_if_nothing_fails():
    sizes = []

    def counted(batch):
        sizes.append(len(batch))
        return look(batch)

    outcomes([1, ImageError("damaged"), *range(7)], 4, looking=counted)
    assert sizes == [3, 4, 1]


def test_many_bad_items_are_told_of_as_they_come():
    items = (ImageError(str(k)) for k in range(1000))
    stream = one_by_one(items, read, look, 4, 2, lambda item, error: tell(item, error, None))
    with pytest.raises(ImageError, match=r"^0$"):
        next(stream)
    assert next(items).args[0] in map(str, range(1, 13))


def test_an_error_says_of_which_file_it_is():
    for item in ("a.png", Path("a.png")):
        with pytest.raises(NoSpatialGradient, match=r"^a\.png: blank$"):
            tell(item, NoSpatialGradient("blank"), None)
    with pytest.raises(ImageError, match=r"^a\.png: damaged$"):
        tell("a.png", ImageError("a.png: damaged"), None)
    with pytest.raises(UnknownWord, match=r"^a\.png: no word$") as raised:
        tell("a.png", UnknownWord("no word", "word"), None)
    assert raised.value.word == "word"
    with pytest.raises(BackboneError, match=r"^not finite$"):
        tell(object(), BackboneError("not finite"), None)


def test_together_all_or_none():
    pairs = [(k, k) for k in range(3)]
    assert together(look, pairs, pytest.fail) == [0, 10, 20]
    assert together(look, [], pytest.fail) == []
    checked = []
    with pytest.raises(NoSpatialGradient, match=r"^image 3 of 4: -1 is blank$"):
        together(look, [(1, 1), (2, 2), (-1, -1), (-2, -2)], lambda: checked.append(1))
    assert checked == [1]
    with pytest.raises(NoSpatialGradient, match=r"^-1 is blank$"):
        together(look, [(-1, -1)], lambda: None)
    assert list(each_alone(look, [])) == []


def test_reading_ahead_stops_where_it_is_left():
    begun = []
    stream = read_ahead(begun.append, range(1000), 2, 4)
    for _ in range(3):
        next(stream)
    stream.close()
    assert len(begun) <= 3 + 4
