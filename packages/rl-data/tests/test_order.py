import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl_data import DataError
from rl_data.order import MixedCursor, RowCursor, shuffled
from rl_data.rows import RowFile, open_rows


@given(num_rows=st.integers(1, 300), seed=st.integers(-(2**63), 2**64), epoch=st.integers(0, 1000))
def test_a_shuffled_epoch_holds_every_row_once(num_rows: int, seed: int, epoch: int):
    rows = [shuffled(position, num_rows, seed=seed, epoch=epoch) for position in range(num_rows)]
    assert sorted(rows) == list(range(num_rows))


def test_seed_and_epoch_change_the_order():
    def order(seed: int, epoch: int) -> list[int]:
        return [shuffled(position, 1000, seed=seed, epoch=epoch) for position in range(1000)]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(5) for epoch in range(5)}) == 25


def test_the_order_looks_random():
    """Rank correlation with the file's order, and mean step between neighbours, are those of a random permutation."""
    rows = np.array([shuffled(position, 10_000, seed=3, epoch=1) for position in range(10_000)])
    # The correlation of a random permutation has a standard deviation of 1 / sqrt(n - 1) = 0.01; 4 of them are allowed.
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.04
    # Two random rows are n / 3 apart on average, here with a standard deviation of about 24.
    assert np.abs(np.diff(rows)).mean() == pytest.approx(10_000 / 3, abs=100)


def test_small_data_sets_reach_every_order():
    orders = {tuple(shuffled(position, 3, seed=0, epoch=epoch) for position in range(3)) for epoch in range(200)}
    assert len(orders) == 6


def rows_of(path: Path, num_rows: int) -> RowFile:
    path.write_text("".join(json.dumps({"number": number}) + "\n" for number in range(num_rows)))
    return open_rows(str(path))


def cursor_over(rows: RowFile, *, shuffle: bool = True, seed: int = 5, first_row: int = 0) -> RowCursor:
    return RowCursor(rows, name="rows", shuffle=shuffle, seed=seed, first_row=first_row)


def drawn(cursor: RowCursor | MixedCursor, number: int) -> list[tuple[int, int]]:
    references = [cursor.advance() for _ in range(number)]
    return [(reference.epoch, reference.row) for reference in references]


@pytest.mark.parametrize("num_read", [0, 1, 4, 9])
def test_an_epoch_ends_as_it_began_and_the_next_has_the_rows_that_were_added(tmp_path: Path, num_read: int):
    small = cursor_over(rows_of(tmp_path / "rows.jsonl", 10))
    begun = drawn(small, num_read)
    state = small.state_dict()
    kept = drawn(small, 10 - num_read)
    grown = cursor_over(rows_of(tmp_path / "rows.jsonl", 13))
    grown.load_state_dict(state)
    if num_read:
        assert drawn(grown, 10 - num_read - 1) == kept[:-1]
        again = cursor_over(rows_of(tmp_path / "rows.jsonl", 14))
        again.load_state_dict(grown.state_dict())  # saved while the grown file's epoch was still one of ten rows
        assert drawn(again, 1) == drawn(grown, 1) == kept[-1:]
        assert sorted(row for _, row in begun + kept) == list(range(10))
    assert sorted(drawn(grown, 13)) == [(1 if num_read else 0, row) for row in range(13)]


FORMATS = ["jsonl", "jsonl.gz", "parquet", "arrow"]


def write_numbers(path: Path, numbers: list[int]) -> None:
    """All of them anew, in one row group or two record batches, as most writers do."""
    if ".jsonl" in path.name:
        text = "".join(json.dumps({"number": number}) + "\n" for number in numbers).encode()
        path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
        return
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"number": numbers})
    if path.suffix == ".parquet":
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    else:
        pytest.importorskip("pyarrow.feather").write_feather(table, str(path), chunksize=(len(numbers) + 1) // 2)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_resume_is_exact_when_the_file_was_written_again_with_more_rows(tmp_path: Path, ending: str):
    path = tmp_path / f"rows.{ending}"

    def cursor() -> RowCursor:
        return cursor_over(open_rows(str(path)))

    write_numbers(path, list(range(25)))
    one = cursor()
    drawn(one, 30)
    state = json.loads(json.dumps(one.state_dict()))
    write_numbers(path, list(range(40)))
    grown = cursor()
    grown.load_state_dict(state)
    assert drawn(grown, 20) == drawn(one, 20)  # the rest of the second epoch
    assert sorted(row for _, row in drawn(grown, 40)) == list(range(40))
    for other in ([100, *range(1, 40)], [*range(24), 100, *range(25, 40)], [*range(12), 100, *range(13, 40)]):
        write_numbers(path, other)
        with pytest.raises(DataError, match="reading other rows: it has 25 with fingerprint"):
            cursor().load_state_dict(state)


@pytest.mark.parametrize("ending", FORMATS)
def test_a_slice_resumes_also_where_it_has_become_longer(tmp_path: Path, ending: str):
    path = tmp_path / f"rows.{ending}"

    def cursor(part: str) -> RowCursor:
        return cursor_over(open_rows(f"{path}@[{part}]"))

    write_numbers(path, list(range(25)))
    one = cursor("3:15")
    drawn(one, 5)
    state = json.loads(json.dumps(one.state_dict()))
    resumed, longer = cursor("3:15"), cursor("3:17")
    for other in (resumed, longer):
        other.load_state_dict(state)
    assert drawn(one, 7) == drawn(resumed, 7) == drawn(longer, 7)
    write_numbers(path, [100, *range(1, 25)])
    for other in (cursor("3:15"), cursor("4:16")):
        with pytest.raises(DataError, match="reading other rows"):
            other.load_state_dict(state)


def test_a_swapped_or_shrunk_file_is_refused_also_under_its_old_name(tmp_path: Path):
    cursor = cursor_over(rows_of(tmp_path / "rows.jsonl", 10))
    drawn(cursor, 3)
    state = cursor.state_dict()
    with pytest.raises(DataError, match="reading other rows: it has 10, now there are 9"):
        cursor_over(rows_of(tmp_path / "rows.jsonl", 9)).load_state_dict(state)
    (tmp_path / "rows.jsonl").write_text('{"number": 0}\n' * 12)
    with pytest.raises(DataError, match=r"reading other rows: it has 10 with fingerprint \w+, now these have \w+"):
        cursor_over(open_rows(str(tmp_path / "rows.jsonl"))).load_state_dict(state)


@given(weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_of_every_first_n_rows_each_data_set_gives_its_share_to_within_one(weights: list[float]):
    parts = [_Counted(10**9) for _ in weights]
    cursors = [cursor_over(part, shuffle=False, first_row=number * 10**9) for number, part in enumerate(parts)]
    mixed = MixedCursor(cursors, weights, name="mixed")
    given_so_far: Counter[int] = Counter()
    for total in range(1, 200):
        given_so_far[mixed.advance().row // 10**9] += 1
        for number, weight in enumerate(weights):
            assert abs(given_so_far[number] - total * weight / sum(weights)) < 1 + 1e-6


class _Counted(RowFile):
    """Rows that are only counted."""

    def __init__(self, num_rows: int) -> None:
        self._num_rows = num_rows

    def __len__(self) -> int:
        return self._num_rows

    def row(self, index):
        raise NotImplementedError

    def rows(self, on_bad_row=None):
        raise NotImplementedError

    def where(self, index):
        raise NotImplementedError

    def fingerprint_of(self, num_rows):
        return str(num_rows)


def test_a_mixed_order_resumes_exactly_and_refuses_other_weights_or_data(tmp_path: Path):
    def mixed(weights: tuple[float, ...] = (3, 1), num_rows: int = 4) -> MixedCursor:
        files = [rows_of(tmp_path / f"{name}.jsonl", rows) for name, rows in (("a", 6), ("b", num_rows))]
        cursors = [cursor_over(files[0]), cursor_over(files[1], seed=6, first_row=6)]
        return MixedCursor(cursors, weights, name="a, b")

    whole = drawn(mixed(), 40)
    assert Counter(row < 6 for _, row in whole) == {True: 30, False: 10}
    assert len(set(whole)) == 40  # epochs of a data set tell its occurrences of a row apart
    assert mixed().epoch == 0
    for number in (0, 1, 7, 23):
        cursor = mixed()
        drawn(cursor, number)
        resumed = mixed()
        resumed.load_state_dict(json.loads(json.dumps(cursor.state_dict())))
        assert drawn(resumed, 40 - number) == whole[number:]
    state = mixed().state_dict()
    with pytest.raises(DataError, match=r"has weights \[3.0, 1.0\], expected \[1.0, 1.0\]: it must not change"):
        mixed((1, 1)).load_state_dict(state)
    with pytest.raises(DataError, match="it has 4, now there are 3"):
        mixed(num_rows=3).load_state_dict(state)
    with pytest.raises(DataError, match="is damaged"):
        mixed().load_state_dict({**state, "data_sets": []})


def test_a_damaged_state_of_a_mixed_order_moves_nothing(tmp_path: Path):
    rows = [rows_of(tmp_path / f"{name}.jsonl", 20) for name in "ab"]
    mixed = MixedCursor(
        [cursor_over(each, first_row=20 * number) for number, each in enumerate(rows)], (1, 2), name="a, b"
    )
    before = mixed.state_dict()
    drawn(mixed, 10)
    state = mixed.state_dict()
    good, moved = state["data_sets"]
    mixed.load_state_dict(before)
    for damaged in ({"num_given": [3]}, {"num_given": [3, "7"]}, {"num_given": [3, -1]}, {"data_sets": [good, 1]}):
        with pytest.raises(DataError, match="a, b: the saved data position is damaged"):
            mixed.load_state_dict({**state, **damaged})
    with pytest.raises(DataError, match="position is damaged: position 20 of 20 rows"):
        mixed.load_state_dict({**state, "data_sets": [good, {**moved, "position": 20}]})
    assert mixed.state_dict() == before


def test_a_mixed_order_resumes_exactly_when_one_of_its_data_sets_has_grown(tmp_path: Path):
    def mixed(num_rows: int) -> MixedCursor:
        files = [rows_of(tmp_path / "a.jsonl", num_rows), rows_of(tmp_path / "b.jsonl", 4)]
        cursors = [cursor_over(files[0]), cursor_over(files[1], seed=6, first_row=num_rows)]
        return MixedCursor(cursors, (1, 1), name="a, b")

    small = mixed(6)
    drawn(small, 5)  # three of the first
    state = json.loads(json.dumps(small.state_dict()))
    grown = mixed(8)
    grown.load_state_dict(state)
    # What follows has numbers that are higher by 2; the first data set's epoch has three rows left.
    assert drawn(grown, 7) == [(epoch, row if row < 6 else row + 2) for epoch, row in drawn(small, 7)]
    assert sorted(row for _, row in drawn(grown, 16) if row < 8) == list(range(8))
