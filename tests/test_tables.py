"""Tables that a spreadsheet shows and does not run, and that give back what was written."""

from __future__ import annotations

import csv
import io
import math
import random

import pytest

from concept_cam.tables import guarded, read_table, table_of

FORMULAS = ("=cmd|' /C calc'!A0", "@SUM(1+1)", "+1", "-1+cmd", "\tx", "\rx", "\n=1", "'=1", "''@x")


@pytest.mark.parametrize("text", FORMULAS, ids=ascii)
def test_a_formula_gets_an_apostrophe_and_loses_it(text):
    content = table_of([{"file": text, text: 1}], ["file", text])
    header, row = list(csv.reader(io.StringIO(content.decode(), newline="")))
    assert header == ["file", f"'{text}"]
    assert row == [f"'{text}", "1"]
    assert read_table(content) == [{"file": text, text: "1"}]


@pytest.mark.parametrize("text", ["a=b", "it's", "'quoted'", "a, b", 'a "b"', "a\nb", "a\rb", "a\r\nb", " =1", "鳥", "a;b"])
def test_other_texts_are_as_they_are(text):
    assert guarded(text) == text
    content = table_of([{"file": text, "x": 0}], ["file", "x"])
    assert list(csv.reader(io.StringIO(content.decode(), newline="")))[1] == [text, "0"]
    assert read_table(content) == [{"file": text, "x": "0"}]


def test_numbers_stay_numbers():
    row = {"a": -0.25, "b": -3, "c": 1 / 3, "d": None, "e": float("-inf"), "f": 1e-12, "g": True, "h": ""}
    content = table_of([row], list(row))
    assert content == b"a,b,c,d,e,f,g,h\n-0.25,-3,0.333333,,-inf,1e-12,True,\n"
    (read,) = read_table(content)
    assert {key: float(read[key]) for key in "abe"} == {"a": -0.25, "b": -3.0, "e": -math.inf}
    assert read.keys() == set("abcefg")  # what is empty is left out


def test_whatever_stands_in_a_row_comes_back():
    rng = random.Random(0)
    letters = "='+-@\t\r\n,;\"\\a1 é\udcff\u2028"
    columns = ("one", "two")
    rows = [{c: "".join(rng.choices(letters, k=rng.randrange(6))) for c in columns} for _ in range(3000)]
    content = table_of(rows, columns)
    assert read_table(content) == [{key: text for key, text in row.items() if text} for row in rows]
    for row in csv.reader(io.StringIO(content.decode(errors="surrogateescape"), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row)


def test_long_texts_and_letters_that_no_file_holds():
    before = csv.field_size_limit()
    assert read_table(table_of([{"a": "x" * 200_000}], ["a"])) == [{"a": "x" * 200_000}]
    assert csv.field_size_limit() == before
    assert read_table(table_of([{"a": "\ud800\0x"}], ["a"])) == [{"a": "\ufffd\ufffdx"}]
    assert table_of([{"a": "\udcff"}], ["a"], errors="backslashreplace") == b"a\n\\udcff\n"


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n", b"a,b\n1,2,3\n", b'a,b\n"1,2\n', b'a\n"1"x\n'])
def test_what_is_no_table_is_refused(content):
    with pytest.raises(ValueError, match=r"."):
        read_table(content)


def test_a_row_of_other_columns_is_refused():
    with pytest.raises(ValueError, match="a row has y; the columns are x"):
        table_of([{"x": 1, "y": 2}], ["x"])
