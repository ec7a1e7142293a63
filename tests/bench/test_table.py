from dataclasses import replace

import pytest

from bench.record import RESULTS, Record
from bench.table import BARS, BEGIN, END, README, read_all, table, with_table

RECORD = Record(
    name="sync_seconds", value=0.1, unit="s", card="NVIDIA H200", date="2026-01-31", command="python x", commit="abc"
)


def rows_of(records, what):
    return [line for line in table(records).splitlines() if line.startswith(f"| {what}")]


def test_the_readme_holds_the_table_of_the_kept_results():
    text = README.read_text()
    assert with_table(text, table(read_all(RESULTS))) == text, "run python -m bench.table"


def test_without_records_each_bar_says_not_measured():
    assert table({}).count("not measured") == sum(len(bar.cards) for bar in BARS)


def test_the_newest_record_of_a_card_is_shown_with_its_verdict():
    records = {"sync_seconds": [replace(RECORD, value=0.2), RECORD, replace(RECORD, card="NVIDIA H100 80GB HBM3")]}
    h200, h100 = rows_of(records, "weight sync")
    assert h200 == ("| weight sync end to end | at most 0.15 s | 0.2 s | **missed** | NVIDIA H200 | abc | 2026-01-31 |")
    assert "| 0.1 s | met | NVIDIA H100" in h100


def test_a_card_without_a_bar_gets_no_verdict():
    rows = rows_of({"sync_seconds": [replace(RECORD, card="another card")]}, "weight sync")
    assert rows[-1] == "| weight sync end to end | at most 0.15 s | 0.1 s |  | another card | abc | 2026-01-31 |"


def test_a_minimum_is_met_from_its_limit_on():
    minimum = next(bar for bar in BARS if bar.name == "sft_mfu")
    assert (minimum.is_met(0.5), minimum.is_met(0.499)) == (True, False)


def test_text_without_markers_is_refused():
    with pytest.raises(ValueError, match="once each"):
        with_table(f"{BEGIN} {END} {BEGIN}", "rows")
