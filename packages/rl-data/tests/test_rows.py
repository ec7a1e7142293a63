import json
import tracemalloc
from pathlib import Path

import pytest

from rl_data import DataError
from rl_data.jsonl import JsonlFile
from rl_data.rows import open_rows


def test_rows_are_read_by_position_whatever_the_line_ends(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\r\n\n   \n{"a": "\xc3\xa9"}\n\t\n{"a": 3}')
    file = JsonlFile(path)
    assert len(file) == 3
    assert [file.row(index) for index in (2, 0, 1)] == [{"a": 3}, {"a": 1}, {"a": "\u00e9"}]
    assert list(file.rows()) == [{"a": 1}, {"a": "\u00e9"}, {"a": 3}]
    assert [file.where(index) for index in range(3)] == [f"{path}:1", f"{path}:4", f"{path}:6"]


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows.jsonl: expected at least one row, found an empty file"):
        open_rows(str(path))


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="expected a file, found nothing"):
        open_rows(str(tmp_path / "no.jsonl"))
    with pytest.raises(DataError, match="expected a file, found a folder"):
        open_rows(str(tmp_path))
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"expected a file ending in \.jsonl or \.parquet"):
        open_rows(str(tmp_path / "rows.csv"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"a": 1', "not valid JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        (b'{"a": "\xff"}', "not valid JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str | bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    file = JsonlFile(path)
    with pytest.raises(DataError, match=rf"rows.jsonl:3: {message}"):
        file.row(1)
    with pytest.raises(DataError, match=rf"rows.jsonl:3: {message}"):
        list(file.rows())


def test_slices_follow_python(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"a": number}) + "\n" for number in range(5)))
    for text, expected in (("[1:3]", [1, 2]), ("[:2]", [0, 1]), ("[-2:]", [3, 4]), ("[3:99]", [3, 4])):
        rows = open_rows(f"{path}@{text}")
        assert [row["a"] for row in rows.rows()] == expected
        assert rows.row(0)["a"] == expected[0]
        assert rows.where(0) == f"{path}:{expected[0] + 1}"
    with pytest.raises(DataError, match="the file has 5 and the slice takes none"):
        open_rows(f"{path}@[7:]")


def test_the_fingerprint_follows_the_content_and_not_the_name(tmp_path: Path):
    for name, content in (("a", '{"x":1}\n'), ("b", '{"x":1}\n'), ("c", '{"x":2}\n')):
        (tmp_path / f"{name}.jsonl").write_text(content)
    first, second, third = (open_rows(str(tmp_path / f"{name}.jsonl")).fingerprint for name in "abc")
    assert first == second != third
    assert open_rows(f"{tmp_path}/a.jsonl@[0:1]").fingerprint != first


def test_memory_holds_an_index_and_not_the_file(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    num_rows = 20_000
    with path.open("w") as file:
        for number in range(num_rows):
            file.write(json.dumps({"text": "x" * 2000, "number": number}) + "\n")
    tracemalloc.start()
    rows = JsonlFile(path)
    assert rows.row(num_rows - 1)["number"] == num_rows - 1
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 40 * num_rows  # offsets are 16 bytes a row; the file has 2000


def test_parquet_rows_equal_those_of_the_same_json_lines(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [
        {"messages": [{"role": "user", "content": f"question {number}"}], "label": str(number)} for number in range(25)
    ]
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=10)
    file = open_rows(str(path))
    assert len(file) == 25
    assert [file.row(index) for index in (24, 0, 11)] == [rows[24], rows[0], rows[11]]
    assert list(file.rows()) == rows
    assert file.where(11) == f"{path}: row 11 (row group 1)"
    with pytest.raises(IndexError):
        file.row(25)


def test_a_truncated_parquet_file_is_refused(tmp_path: Path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([{"a": 1}]), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"rows.parquet: not a readable parquet file"):
        open_rows(str(path))
