"""Reading MMBench's table: what it holds, and what is said of a malformed one."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from evaluation.tables import colour_of, png, rotations, write_table

from inlay.core.errors import DataError
from inlay.data.vision.files import open_image
from inlay.evaluation.mmbench_table import read_table


def test_rows_as_pandas_wrote_them(tmp_path: Path) -> None:
    rows = rotations(7, "blue", question='Tab\there, a "quote"\nand a line', hint="A hint")
    rows += [{**row, "D": None} for row in rotations(9, "red", comment="x" * 200_000)[:1]]
    table = read_table(write_table(tmp_path / "t.tsv", rows))
    assert (table.letters, table.has_answers, len(table.rows)) == ("ABCD", True, 5)
    first = table.rows[0]
    assert first.question == 'Tab\there, a "quote"\nand a line' and first.hint == "A hint"
    assert (first.answer, first.category, first.l2_category) == (
        "B",
        "colour",
        "coarse_perception",
    )
    assert table.rows[4].options.keys() == {"A", "B", "C"} and table.rows[4].hint is None
    assert [row.line for row in table.rows] == [2, 4, 6, 8, 10], "a row has two lines"


def test_pictures_and_references_to_them(tmp_path: Path) -> None:
    rows = rotations(7, "blue", image=png("blue", noise=300_000))
    for row in rows[1:]:
        row["image"] = "7"
    table = read_table(write_table(tmp_path / "t.tsv", rows))
    for row in table.rows:
        assert colour_of(open_image(table.image(row))) == "blue"
    assert csv.field_size_limit() == 131_072, "Python's own limit is back"


def test_an_option_called_none_is_an_option(tmp_path: Path) -> None:
    rows = rotations(7, "blue")
    rows[0].update(A="None", C="NA", D="nan")
    (row, *_) = read_table(write_table(tmp_path / "t.tsv", rows)).rows
    assert row.options == {"A": "None", "B": "blue", "C": "NA"}


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("not base64 at all!", "the picture is not base64"),
        (None, "there is no picture"),
        ("123", "the picture refers to row 123, which the table lacks"),
        ("7", "the picture refers to itself"),
    ],
)
def test_broken_pictures_are_named_when_asked_for(
    tmp_path: Path, image: str | None, words: str
) -> None:
    rows = rotations(7, "blue")
    rows[0]["image"] = image
    table = read_table(write_table(tmp_path / "t.tsv", rows))
    with pytest.raises(DataError, match=f"t.tsv, line 2: {words}"):
        table.image(table.rows[0])


HEAD = "index\timage\tquestion\tA\tB\tanswer\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "line 1: expected tab-separated columns index, image"),
        ("index,image,question,A,B\n1,x,q,a,b\n", "line 1: .* in: index,image,question"),
        (HEAD, "the table has no rows"),
        (HEAD + "1\tx\tq\ta\tb\n", "line 2: expected 6 tab-separated values, found 5"),
        (HEAD + "1\tx\tq\ta\tb\tA\tmore\n", "line 2: expected 6 .*, found 7"),
        (HEAD + "one\tx\tq\ta\tb\tA\n", "line 2: expected a number as index, found 'one'"),
        (HEAD + "1\tx\tq\ta\tb\tA\n1\tx\tq\ta\tb\tA\n", "line 3: index 1 stands on line 2, too"),
        (HEAD + "1\tx\t\ta\tb\tA\n", "line 2: there is no question"),
        (HEAD + "1\tx\tq\ta\tb\tC\n", "line 2: the answer 'C' is none of the options A, B"),
        (HEAD + "1\tx\tq\ta\tb\tA\n2\tx\tq\ta\tb\t\n", "line 3: there is no answer, but other"),
        (HEAD + '1\tx\tq\ta\tb\tA\n2\tx\t"open\ta\tb\tA\n', "line 3: the row that starts here is"),
        (HEAD + '1\tx\t"q" and so on\ta\tb\tA\n', "line 2: the row that starts here is malformed"),
    ],
)
def test_malformed_tables(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_table(path)
    assert csv.field_size_limit() == 131_072


def test_other_bytes_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_bytes(HEAD.encode() + b"1\t\xff\xfe\tq\ta\tb\tA\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_table(tmp_path / "t.tsv")
    with pytest.raises(DataError, match="no such file"):
        read_table(tmp_path / "none.tsv")


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = "\ufeff" + HEAD + "1\tx\tq\ta\tb\tA\n"
    (tmp_path / "t.tsv").write_bytes(text.replace("\n", "\r\n").encode())
    (row,) = read_table(tmp_path / "t.tsv").rows
    assert (row.index, row.answer) == (1, "A")
