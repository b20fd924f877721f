"""Text files and tables from outside, as editors and spreadsheets write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from concept_cam.textfiles import MAX_ROWS, lines_of, table_of, text_of


def test_encodings(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes("Bläuling 鳥\r\n".encode(encoding))
        assert text_of(file, 100) == "Bläuling 鳥\r\n"
    for content, words in (
        (b"\xe4", "not UTF-8 text: .* at byte 0"),
        ("ab".encode("utf-16-le"), "NUL"),
        (b"\xff\xfea", "not"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=words):
            text_of(file, 100)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"x" * 100)
    assert len(text_of(file, 100)) == 100
    with pytest.raises(ValueError, match="it has 100 bytes; at most 99 are read"):
        text_of(file, 99)
    os.mkfifo(tmp_path / "fifo")
    for path, words in (
        (tmp_path, "it is a folder"),
        (tmp_path / "fifo", "no regular file"),
        (Path("/dev/zero"), "no regular"),
    ):
        with pytest.raises(ValueError, match=words):
            text_of(path, 99)


def test_lines_end_at_line_breaks_alone() -> None:
    assert list(lines_of("a\u2028b\r\nc\x0cd\re\x85f\n\ng")) == ["a\u2028b", "c\x0cd", "e\x85f", "", "g"]


def test_tables() -> None:
    found = table_of('a;b\n1;"x\r\ny"\n\n ; \n2\n;3\n4;5;\n6;7;8\n"9;\n')
    assert found.header == ("a", "b")
    assert found.rows == (
        (2, {"a": "1", "b": "x\r\ny"}),
        (6, {"a": "2"}),
        (7, {"b": "3"}),
        (8, {"a": "4", "b": "5"}),
    )
    assert found.problems == ("line 9: 3 values, where the header names 2", "line 10: unexpected end of data")
    assert table_of("a\tb,c\td\n1\t2\t3").rows == ((2, {"a": "1", "b,c": "2", "d": "3"}),)
    assert table_of("sep=;\r\na\r\n1;").rows[0][1] == {"a": "1"}


def test_a_table_of_many_rows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_ROWS == 5_000_000
    monkeypatch.setattr("concept_cam.textfiles.MAX_ROWS", 3)
    assert len(table_of("a\n1\n2\n3").rows) == 3
    with pytest.raises(ValueError, match="more than 3 rows"):
        table_of("a\n1\n2\n3\n4")
