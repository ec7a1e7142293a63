import gzip
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from rl_data import DataError
from rl_data.rows import open_files, open_rows
from rl_data.rows.jsonl import JsonlFile
from rl_data.rows.made_file import Spool
from rl_data.rows.open_files import PositionedFile
from rl_data.rows.row_file import RowFile

ROWS = [{"messages": [{"role": "user", "content": f"question {number}"}], "label": str(number)} for number in range(25)]


def lines_of(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_parquet(path: Path, rows: list[dict[str, object]], row_group_size: int = 10) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size)


def write_arrow(path: Path, rows: list[dict[str, object]], *, is_stream: bool = False) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows)
    make = pyarrow.ipc.new_stream if is_stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=10)


def write_zst(path: Path, rows: list[dict[str, object]]) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(lines_of(rows))


WRITERS: dict[str, Callable[[Path, list[dict[str, object]]], object]] = {
    "rows.jsonl": lambda path, rows: path.write_bytes(lines_of(rows)),
    "rows.jsonl.gz": lambda path, rows: path.write_bytes(gzip.compress(lines_of(rows))),
    "rows.jsonl.zst": write_zst,
    "rows.json": lambda path, rows: path.write_text(json.dumps(rows, indent=1)),
    "rows.parquet": write_parquet,
    "rows.arrow": write_arrow,
    "stream.arrow": lambda path, rows: write_arrow(path, rows, is_stream=True),
}


def values(rows: RowFile) -> list[object]:
    return [row for _, row in rows.rows()]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str):
    path = tmp_path / name
    WRITERS[name](path, ROWS)
    file = open_rows(str(path))
    assert len(file) == 25
    assert [file.row(index) for index in (24, 0, 11)] == [ROWS[24], ROWS[0], ROWS[11]]
    assert [number for number, _ in file.rows()] == list(range(25))
    assert values(file) == ROWS
    assert values(open_rows(f"{path}@[9:12]")) == ROWS[9:12]
    with pytest.raises(IndexError):
        file.row(25)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("rows.jsonl", ":12"),
        ("rows.jsonl.gz", ":12"),
        ("rows.json", ": row 11"),
        ("rows.parquet", ": row 11 (row group 1)"),
        ("rows.arrow", ": row 11 (record batch 1)"),
    ],
)
def test_a_row_is_named_by_its_line_or_its_row_group(tmp_path: Path, name: str, place: str):
    WRITERS[name](tmp_path / name, ROWS)
    assert open_rows(str(tmp_path / name)).where(11) == f"{tmp_path / name}{place}"


def test_rows_are_read_by_position_whatever_the_line_ends(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n' + b" " * 70 + b'\n{"a": "\xc3\xa9"}\n\t\n{"a": 3}')
    file = JsonlFile(path)
    assert len(file) == 3
    assert [file.row(index) for index in (2, 0, 1)] == [{"a": 3}, {"a": 1}, {"a": "\u00e9"}]
    assert values(file) == [{"a": 1}, {"a": "\u00e9"}, {"a": 3}]
    assert [file.where(index) for index in range(3)] == [f"{path}:1", f"{path}:4", f"{path}:6"]


def test_a_line_of_zeros_is_a_bad_row_and_moves_no_other(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n\0\0\n{"a": 2}\n\0')
    file = JsonlFile(path)
    assert (len(file), file.row(2)) == (4, {"a": 2})
    told: list[tuple[int, str]] = []
    assert list(file.rows(lambda index, error: told.append((index, str(error))))) == [(0, {"a": 0}), (2, {"a": 2})]
    assert [(index, error.partition(": ")[0]) for index, error in told] == [(1, f"{path}:2"), (3, f"{path}:4")]


def test_nesting_without_end_is_a_bad_row(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n")
    with pytest.raises(DataError, match=r"rows.jsonl:1: not valid JSON"):
        JsonlFile(tmp_path / "rows.jsonl").row(0)


def test_a_json_file_holds_a_list_or_lines(tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text('  [{"a": "x\\ny"},\n {"a": [1,\n2]}, 5]')
    rows = open_rows(str(path))
    assert [rows.row(index) for index in range(2)] == [{"a": "x\ny"}, {"a": [1, 2]}]
    with pytest.raises(DataError, match=r"rows.json: row 2: expected a JSON object, found int"):
        rows.row(2)
    (tmp_path / "rows.parquet.json").write_text('{"about": "the rows"}\n')
    assert values(open_rows(str(tmp_path / "rows.parquet.json"))) == [{"about": "the rows"}]
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n')
    assert values(open_rows(str(tmp_path))) == [{"a": 1}]  # beside other data a .json file is none


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_an_empty_file_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows.jsonl: expected at least one row, found an empty file"):
        open_rows(str(path))


def test_a_missing_file_and_an_unknown_ending_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match=r"no.jsonl: expected a file, a folder or a pattern, found nothing"):
        open_rows(str(tmp_path / "no.jsonl"))
    (tmp_path / "rows.csv").write_text("a,b\n")
    with pytest.raises(DataError, match=r"rows.csv: expected \.jsonl or \.ndjson, .*or \.parquet or \.arrow"):
        open_rows(str(tmp_path / "rows.csv"))


BAD_LINES = [
    ('{"a": 1', r"not valid JSON: .*: found text '\{.a.: 1'"),
    ("[1, 2]", r"expected a JSON object, found list \[1, 2\]"),
    (b'{"a": "\xff"}', "not valid JSON"),
    ("x" * 1000, r"not valid JSON: .*: found text 'x{56}\.\.\.$"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str | bytes, message: str):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 0}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b'\n{"a": 2}\n')
    file = JsonlFile(path)
    with pytest.raises(DataError, match=rf"rows.jsonl:3: {message}"):
        file.row(1)
    with pytest.raises(DataError, match=rf"rows.jsonl:3: {message}"):
        list(file.rows())
    told: list[tuple[int, str]] = []
    assert list(file.rows(lambda index, error: told.append((index, str(error))))) == [(0, {"a": 0}), (2, {"a": 2})]
    assert [index for index, _ in told] == [1]
    assert re.search(message, told[0][1])


def test_slices_follow_python(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"a": number}) + "\n" for number in range(5)))
    for text, expected in (("[1:3]", [1, 2]), ("[:2]", [0, 1]), ("[-2:]", [3, 4]), ("[3:99]", [3, 4])):
        rows = open_rows(f"{path}@{text}")
        assert [row["a"] for _, row in rows.rows()] == expected
        assert rows.row(0)["a"] == expected[0]
        assert rows.where(0) == f"{path}:{expected[0] + 1}"
    with pytest.raises(DataError, match="there are 5 and the slice takes none"):
        open_rows(f"{path}@[7:]")
    for text in ("[3]", "[0:4:2]", "[a:b]"):
        with pytest.raises(DataError, match=rf"rows\.jsonl@.*: expected a slice as in .*, found @{re.escape(text)}$"):
            open_rows(f"{path}@{text}")


def test_folders_and_patterns_are_read_in_the_order_of_names(tmp_path: Path):
    for number, name in enumerate(("b", "a", "sub/c")):
        path = tmp_path / "data" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"from": {number}}}\n' * 2)
    (tmp_path / "data" / "README.md").write_text("no data")
    (tmp_path / "data" / ".hidden.jsonl").write_text('{"from": 9}\n')

    def sources(source: str) -> list[object]:
        return [row["from"] for _, row in open_rows(f"{tmp_path}/{source}").rows()]

    assert sources("data") == [1, 1, 0, 0, 2, 2]
    assert sources("data/*.jsonl") == [1, 1, 0, 0]
    assert sources("data/**/*.jsonl@[3:]") == [0, 2, 2]
    rows = open_rows(f"{tmp_path}/data@[1:]")
    assert (rows.where(0), rows.where(3)) == (f"{tmp_path}/data/a.jsonl:2", f"{tmp_path}/data/sub/c.jsonl:1")


def test_folders_and_patterns_that_give_nothing_clear_are_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "mixed" / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n'))
    for source, message in (
        ("*.jsonl", "expected files of this pattern, found none"),
        ("empty", "in this folder, found nothing"),
        ("mixed", r"expected files of one format, found \.jsonl, \.jsonl\.gz; name those of one, as in .*\*\.jsonl"),
    ):
        with pytest.raises(DataError, match=message):
            open_rows(f"{tmp_path}/{source}")


def test_the_fingerprint_follows_the_content_and_not_the_name(tmp_path: Path):
    for name, content in (("a", '{"x":1}\n'), ("b", '{"x":1}\n'), ("c", '{"x":2}\n')):
        (tmp_path / f"{name}.jsonl").write_text(content)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"x":1}\n'))
    first, second, third = (open_rows(str(tmp_path / f"{name}.jsonl")).fingerprint for name in "abc")
    assert first == second != third
    assert open_rows(str(tmp_path / "a.jsonl.gz")).fingerprint == first


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("num_rows", [20, 15])  # 15 of them end within a row group, or a record batch
def test_rows_keep_their_fingerprint_when_others_follow(tmp_path: Path, name: str, num_rows: int):
    WRITERS[name](tmp_path / name, ROWS[:num_rows])
    before = open_rows(str(tmp_path / name)).fingerprint
    WRITERS[name](tmp_path / name, ROWS)
    grown = open_rows(str(tmp_path / name))
    assert grown.fingerprint_of(num_rows) == before != grown.fingerprint
    assert open_rows(f"{tmp_path / name}@[5:{num_rows}]").fingerprint == f"{before}@[5:]"
    WRITERS[name](tmp_path / name, [*ROWS[:3], {**ROWS[3], "label": "other"}, *ROWS[4:]])
    assert open_rows(str(tmp_path / name)).fingerprint_of(num_rows) != before


def test_rows_of_tables_have_a_fingerprint_of_what_they_say(tmp_path: Path):
    """However they are written: row groups, compression, types of the same values, keys that only later rows have."""
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = [{"number": number % 1000, "text": f"row {number}", "turns": [{"a": None}]} for number in range(3000)]
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    before = open_rows(str(tmp_path / "a.parquet"))
    types = {"number": pyarrow.int16(), "text": pyarrow.dictionary(pyarrow.int32(), "string")}
    columns = {name: table[name].cast(types[name]) if name in types else table[name] for name in table.column_names}
    parquet.write_table(pyarrow.table(columns), tmp_path / "b.parquet", compression="zstd")
    last = {"number": 1, "text": "more", "label": "1", "turns": [{"a": "some", "b": 2}]}
    more = pyarrow.Table.from_pylist([last, *rows]).slice(1)
    more = pyarrow.concat_tables([more, pyarrow.Table.from_pylist([last], more.schema)])
    parquet.write_table(more, tmp_path / "c.parquet", row_group_size=1100)
    write_arrow(tmp_path / "d.arrow", rows, is_stream=True)
    for name in ("b.parquet", "c.parquet", "d.arrow"):
        other = open_rows(str(tmp_path / name))
        for num_rows in (1, 700, 1023, 1024, 2047, 2500, 3000):
            assert other.fingerprint_of(num_rows) == before.fingerprint_of(num_rows)
    assert len({before.fingerprint_of(num_rows) for num_rows in range(1000, 1100)}) == 100


def test_a_file_keeps_its_fingerprint_when_others_follow_in_its_folder(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(lines_of(ROWS[:10]))
    alone = open_rows(str(tmp_path)).fingerprint
    (tmp_path / "b.jsonl").write_bytes(lines_of(ROWS[10:20]))
    two = open_rows(str(tmp_path))
    assert two.fingerprint_of(10) == alone
    (tmp_path / "b.jsonl").write_bytes(lines_of(ROWS[10:]))
    assert open_rows(str(tmp_path)).fingerprint_of(20) == two.fingerprint
    (tmp_path / "a.jsonl").write_bytes(lines_of(ROWS[:9]))
    assert open_rows(str(tmp_path)).fingerprint_of(20) != two.fingerprint


@pytest.mark.parametrize("name", WRITERS)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str):
    """Cut off in the middle: JSON lines lose rows and the half of one, which is found when it is read."""
    path = tmp_path / name
    WRITERS[name](path, ROWS * 100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 - 7])
    with pytest.raises(DataError, match=rf"{name}: (not a readable|damaged or cut off)|not valid JSON"):
        list(open_rows(str(path)).rows())


def test_a_damaged_row_group_is_named_when_the_file_is_opened(tmp_path: Path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    write_parquet(path, [{"text": os.urandom(300).hex()} for _ in range(30)])
    column = parquet.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size // 2
    content[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.parquet: row group 1 is damaged: "):
        open_rows(str(path))


@pytest.mark.parametrize("num_bytes", [10, 1 << 21])
def test_a_full_disk_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bytes: int):
    monkeypatch.setenv("RL_DATA_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rows.jsonl").write_bytes(lines_of([{"text": "a" * num_bytes}]))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))  # no file may hold a byte
    try:
        with pytest.raises(DataError, match="what is made of a data file cannot be written there: File too large"):
            open_rows(str(tmp_path / "rows.jsonl"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("num_rows", "is_kept"), [(9_999, False), (10_000, True)])
def test_a_small_table_with_many_rows_keeps_its_digests(tmp_path: Path, num_rows: int, is_kept: bool):
    write_parquet(tmp_path / "rows.parquet", [{"text": "alike"}] * num_rows, row_group_size=num_rows)
    assert (tmp_path / "rows.parquet").stat().st_size < 1 << 12
    rows = open_rows(str(tmp_path / "rows.parquet"))
    kept = tmp_path / ".rl-data" / "rows.parquet.index"
    assert kept.exists() == is_kept
    assert open_rows(str(tmp_path / "rows.parquet")).fingerprint_of(num_rows) == rows.fingerprint_of(num_rows)


@pytest.mark.parametrize(("is_stream", "compression"), [(False, "lz4"), (True, "lz4"), (False, "zstd"), (True, "zstd")])
def test_of_a_compressed_arrow_file_few_record_batches_are_unpacked_at_a_time(
    tmp_path: Path, is_stream: bool, compression: str
):
    pyarrow = pytest.importorskip("pyarrow")
    texts, names = [f"{'a' * (1 << 20)}{number}" for number in range(32)], ["odd", "even", "even", "odd"] * 8
    table = pyarrow.table({"text": texts, "name": pyarrow.array(names).dictionary_encode()})
    path = tmp_path / "rows.arrow"
    make = pyarrow.ipc.new_stream if is_stream else pyarrow.ipc.new_file
    options = pyarrow.ipc.IpcWriteOptions(compression=compression)
    with pyarrow.OSFile(str(path), "wb") as file, make(file, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=2)
    before = pyarrow.total_allocated_bytes()
    rows = open_rows(str(path))
    assert pyarrow.total_allocated_bytes() - before <= 2 * (2 << 20)  # of 32 MiB
    for number in (0, 31, 18, 17):
        assert rows.row(number) == {"text": texts[number], "name": names[number]}
    assert pyarrow.total_allocated_bytes() - before >= 3 * (2 << 20)  # those that were used last stay
    assert rows.where(17).endswith("row 17 (record batch 8)")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable Arrow file"):
        open_rows(str(path))
    damaged = bytearray(whole)
    at = whole.rindex(b"\x04\x22\x4d\x18" if compression == "lz4" else b"\x28\xb5\x2f\xfd")  # a frame begins there
    damaged[at : at + 4] = b"\0\0\0\0"
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="record batch 15 is damaged"):
        open_rows(str(path))


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_text_of_a_table_that_is_not_utf_8_is_a_bad_row(tmp_path: Path, ending: str):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary())
    (damaged,) = [pyarrow.Array.from_buffers(pyarrow.string(), 3, texts.buffers())]
    table = pyarrow.table({"text": damaged})
    path = tmp_path / f"rows.{ending}"
    if ending == "parquet":
        parquet.write_table(table, path, use_dictionary=False)
    else:
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    rows = open_rows(str(path))
    message = rf"rows\.{ending}: row 1 \(.* 0\): cannot be read: 'utf-8' codec can't decode"
    for use in (lambda: rows.row(1), lambda: list(rows.rows())):
        with pytest.raises(DataError, match=message):
            use()
    told: list[int] = []
    assert list(rows.rows(lambda index, error: told.append(index))) == [(0, {"text": "a"}), (2, {"text": "c"})]
    assert told == [1]


def close_files() -> None:
    """As where others are used: each is opened again when it is read."""
    while open_files._used:
        _, file = open_files._used.popitem()
        if (one := file()) is not None:
            one.close()


class TestIndex:
    """Of a file large enough for its index to be kept."""

    NUM_ROWS = 20_000

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "data" / "rows.jsonl"
        path.parent.mkdir()
        path.write_bytes(self.content())
        return path

    def content(self) -> bytes:
        # Longer than three blocks of the index, with lines of all lengths and blank ones, so that blocks end anywhere.
        return b"".join(
            json.dumps({"number": number, "text": "x" * (number * 37 % 1500)}).encode() + b"\n" * (1 + number % 2)
            for number in range(self.NUM_ROWS)
        )

    def test_rows_and_lines_are_found_across_blocks(self, path: Path):
        rows = JsonlFile(path)
        assert len(rows) == self.NUM_ROWS
        assert [row["number"] for _, row in rows.rows()] == list(range(self.NUM_ROWS))
        lines = path.read_bytes().split(b"\n")
        for number in (0, 1, 5_432, 5_433, 12_345, self.NUM_ROWS - 1):
            assert rows.row(number)["number"] == number
            line = int(rows.where(number).rpartition(":")[2])
            assert json.loads(lines[line - 1])["number"] == number

    def test_it_is_made_once_and_again_when_the_file_changes(self, path: Path):
        kept = path.parent / ".rl-data" / "rows.jsonl.index"
        first = JsonlFile(path).fingerprint
        made = kept.stat().st_ino
        assert JsonlFile(path).fingerprint == first
        assert kept.stat().st_ino == made
        assert list(kept.parent.iterdir()) == [kept]  # no half-made file is left
        path.write_bytes(self.content() + b'{"number": -1}\n')
        grown = JsonlFile(path)
        assert len(grown) == self.NUM_ROWS + 1
        assert grown.fingerprint_of(self.NUM_ROWS) == first != grown.fingerprint
        assert kept.stat().st_ino != made

    def test_a_file_of_the_same_size_and_time_is_told_apart(self, path: Path):
        first = JsonlFile(path).fingerprint
        status = path.stat()
        path.write_bytes(self.content().replace(b"x", b"y"))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert JsonlFile(path).fingerprint != first

    def test_a_damaged_index_is_made_again(self, path: Path):
        first = JsonlFile(path).fingerprint
        kept = path.parent / ".rl-data" / "rows.jsonl.index"
        kept.write_bytes(b"nonsense")
        assert JsonlFile(path).fingerprint == first
        assert kept.stat().st_size > 16 * self.NUM_ROWS

    def test_it_goes_to_the_cache_folder_where_the_data_cannot_be_written(
        self, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ):
        (path.parent / ".rl-data").write_text("a file in the way stands for a read-only folder, which root can write")
        monkeypatch.setenv("RL_DATA_CACHE", str(tmp_path / "cache"))
        JsonlFile(path)
        (kept,) = (tmp_path / "cache").iterdir()
        assert kept.name.endswith("-rows.jsonl.index")
        made = kept.stat().st_ino
        JsonlFile(path)
        assert kept.stat().st_ino == made
        monkeypatch.setenv("RL_DATA_CACHE", str(path))
        assert JsonlFile(path).row(7)["number"] == 7
        assert "can be kept neither beside it nor in" in caplog.text

    def test_a_compressed_file_is_unpacked_once(self, tmp_path: Path):
        path = tmp_path / "rows.jsonl.gz"
        # Bytes that do not compress, for files below 1 MiB leave nothing behind.
        noise = os.urandom(1_500_000).hex()
        path.write_bytes(gzip.compress(json.dumps({"text": noise}).encode() + b'\n{"number": 1}\n', 1))
        assert JsonlFile(path).row(1) == {"number": 1}
        kept = {entry.name: entry.stat().st_ino for entry in (tmp_path / ".rl-data").iterdir()}
        assert sorted(kept) == ["rows.jsonl.gz.index", "rows.jsonl.gz.rows"]
        again = JsonlFile(path)
        assert again.row(0) == {"text": noise}
        assert {entry.name: entry.stat().st_ino for entry in (tmp_path / ".rl-data").iterdir()} == kept

    def test_one_that_another_process_made_again_is_made_for_its_reader(self, path: Path):
        rows = JsonlFile(path)
        before = rows.fingerprint
        with path.open("ab") as out:
            out.write(b'{"number": -1}\n')
        assert len(JsonlFile(path)) == self.NUM_ROWS + 1  # as another process
        close_files()
        assert rows.row(self.NUM_ROWS - 1)["number"] == self.NUM_ROWS - 1
        assert (rows.fingerprint, len(rows)) == (before, self.NUM_ROWS)

    def test_unpacked_rows_that_are_lost_are_made_again_unless_the_file_changed(self, tmp_path: Path):
        path = tmp_path / "rows.jsonl.gz"
        text = os.urandom(1_500_000).hex()
        path.write_bytes(gzip.compress(json.dumps({"text": text}).encode(), 1))
        rows = JsonlFile(path)
        close_files()
        shutil.rmtree(tmp_path / ".rl-data")
        assert rows.row(0) == {"text": text}
        rows = JsonlFile(path)
        close_files()
        shutil.rmtree(tmp_path / ".rl-data")
        path.write_bytes(gzip.compress(json.dumps({"text": text[::-1]}).encode(), 1))
        with pytest.raises(DataError, match=r"rows\.jsonl\.gz: changed while it was being read"):
            rows.row(0)

    def test_what_is_large_and_cannot_be_kept_is_written_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        path = tmp_path / "rows.jsonl.gz"
        noise = os.urandom(1_500_000).hex()
        path.write_bytes(gzip.compress(json.dumps({"text": noise}).encode() + b'\n{"number": 1}\n', 1))
        (tmp_path / ".rl-data").write_text("in the way")
        monkeypatch.setenv("RL_DATA_CACHE", str(path))
        spool = Spool.of_process()
        rows = JsonlFile(path)
        assert [rows.row(0), rows.row(1)] == [{"text": noise}, {"number": 1}]
        assert 0 < spool._end < 1 << 20  # it holds the index alone

    def test_memory_does_not_grow_with_the_rows(self, path: Path):
        JsonlFile(path)
        tracemalloc.start()
        rows = JsonlFile(path)
        assert rows.row(self.NUM_ROWS - 1)["number"] == self.NUM_ROWS - 1
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held < 50_000  # offsets of 20,000 rows would take 320,000 bytes


def test_a_small_file_leaves_nothing_beside_it(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_bytes(lines_of(ROWS))
    open_rows(str(tmp_path / "rows.jsonl"))
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


READ_MANY_FILES = """
import random, resource, sys
from rl_data.rows import open_rows
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
rows = open_rows(sys.argv[1])
numbers = random.Random(0).sample(range(len(rows)), len(rows))
assert [rows.row(number)["number"] for number in numbers] == numbers
assert rows.fingerprint == open_rows(sys.argv[1]).fingerprint
print(len(rows))
"""


@pytest.mark.parametrize(
    ("ending", "num_files", "num_text_bytes", "most_open"),
    [
        (".jsonl", 200, 0, 64),
        (".jsonl.gz", 200, 0, 64),
        (".json", 200, 0, 64),
        (".parquet", 200, 0, 64),
        (".arrow", 200, 0, 64),
        (".jsonl", 20, 1_100_000, 32),  # whose indexes are kept
    ],
)
def test_more_files_are_read_than_a_process_may_open(
    tmp_path: Path, ending: str, num_files: int, num_text_bytes: int, most_open: int
):
    for number in range(num_files):
        rows = [{"number": 2 * number + one, "text": "x" * (num_text_bytes // 2)} for one in range(2)]
        WRITERS[f"rows{ending}"](tmp_path / f"{number:03}{ending}", rows)
    command = [sys.executable, "-c", READ_MANY_FILES, str(tmp_path), str(most_open)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{2 * num_files}\n", done.stderr


def test_a_file_that_another_one_replaced_is_not_read_on_as_if_it_were_the_same(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("first")
    file = PositionedFile(path)
    file.close()
    assert file.read(0, 5) == b"first"
    (tmp_path / "other").write_text("second")
    os.replace(tmp_path / "other", path)
    assert file.read(0, 5) == b"first"  # it is still open
    file.close()
    with pytest.raises(DataError, match=r"rows\.jsonl: another file took its place while it was being read"):
        file.read(0, 5)
    path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl: cannot be read any more: No such file"):
        file.read(0, 5)


def test_a_file_may_grow_but_an_inode_that_is_used_again_is_another_file(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text("first")
    file = PositionedFile(path)
    file.close()
    with path.open("a") as out:
        out.write(" and more")
    path.chmod(0o600)
    assert file.read(0, 5) == b"first"
    file.close()
    inode = path.stat().st_ino
    path.write_text("other and more")  # stands for a new file of the old number, which a file system gives as it likes
    assert path.stat().st_ino == inode
    with pytest.raises(DataError, match="another file took its place"):
        file.read(0, 5)


def test_parts_that_go_while_another_is_put_stop_nothing_and_the_last_takes_the_file_with_it():
    class Made(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            parts.pop(0) if parts else None  # as the garbage collector does, which runs at any time
            return super().read(size)

    spool = Spool()
    parts = [spool.put(io.BytesIO(text)) for text in (b"first", b"second")]
    assert parts[1].read(1, 99) == b"econd"
    third = spool.put(Made(b"third"))
    assert not parts
    assert third.read(0, 99) == b"third"
    gone = weakref.ref(spool)
    del third, spool
    assert gone() is None
    held = Spool.of_process().put(io.BytesIO(b"new"))
    assert Spool.of_process() is held._spool
    assert held.read(0, 3) == b"new"


def test_a_parquet_file_that_another_one_replaced_is_refused(tmp_path: Path):
    path = tmp_path / "rows.parquet"
    write_parquet(path, ROWS)
    rows = open_rows(str(path))
    assert rows.row(0) == ROWS[0]
    write_parquet(tmp_path / "other", ROWS[:5])
    os.replace(tmp_path / "other", path)
    assert rows.row(1) == ROWS[1]  # of a row group that is in memory
    with pytest.raises(DataError, match=r"rows\.parquet: another file took its place"):
        rows.row(20)
