"""The README's table of measured numbers, made from bench/results: `python -m bench.table [--check]`."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.record import RESULTS, Record, read

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- made by python -m bench.table from bench/results; do not edit -->"
END = "<!-- end of the table of python -m bench.table -->"
_H200 = "NVIDIA H200"
_H100 = "NVIDIA H100 80GB HBM3"
_CPU = "CPU (AMD EPYC)"
_HEAD = "| what | bar | measured | | card | commit | date |\n|---|---|---|---|---|---|---|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What a number is held against."""

    name: str
    what: str
    limit: float
    is_minimum: bool = False
    """Whether the number must be at least the limit, rather than at most."""
    unit: str = ""
    """As it follows the number in the table."""
    cards: tuple[str, ...] = (_H200,)
    """The cards that the bar is set for. Records of others are shown without a verdict."""

    @property
    def text(self) -> str:
        """The bar as the table shows it."""
        return f"{'at least' if self.is_minimum else 'at most'} {self.limit:g}{self.unit}"

    def is_met(self, value: float) -> bool:
        """Whether the number is good enough."""
        return value >= self.limit if self.is_minimum else value <= self.limit


BARS = (
    Bar(name="quickstart_seconds", what="quickstart, the slowest of three seeds", limit=300, unit=" s", cards=(_CPU,)),
    Bar(
        name="quickstart_reward_ratio",
        what="quickstart, mean reward of the last 5 steps over the first 5, the smallest of three seeds",
        limit=2,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="quickstart_reward_last",
        what="quickstart, mean reward of the last 5 steps, the smallest of three seeds",
        limit=0.8,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="quickstart_logprob_diff",
        what="quickstart, difference of rollout and trainer log-probabilities, float32, the largest of three seeds",
        limit=1e-5,
        cards=(_CPU,),
    ),
    Bar(
        name="sft_mfu",
        what="SFT, packed 16k tokens, optimizer step included, share of 989 TFLOP/s",
        limit=0.5,
        is_minimum=True,
    ),
    Bar(name="sft_over_trl", what="SFT tokens/s over TRL's SFTTrainer", limit=1.35, is_minimum=True),
    Bar(name="sync_seconds", what="weight sync end to end", limit=0.15, unit=" s", cards=(_H200, _H100)),
    Bar(name="switch_seconds", what="release + resume + sync, each step", limit=1.0, unit=" s"),
    Bar(name="step_over_floor", what="GRPO step over bare generation + bare training", limit=1.05),
    Bar(
        name="generation_over_bare",
        what="generation through the engine layer over bare `sglang.Engine.generate`",
        limit=0.98,
        is_minimum=True,
    ),
    Bar(
        name="loss_extra_gib",
        what="peak memory of the loss, vocabulary 151,936 over vocabulary 1,000, 16k tokens",
        limit=3.0,
        unit=" GiB",
    ),
    Bar(
        name="logprob_abs_diff",
        what="mean absolute difference of rollout and trainer log-probabilities, bf16, largest of the steps",
        limit=0.01,
    ),
    Bar(
        name="memory_growth_gib",
        what="growth of memory in use over 30 GRPO steps, the last third over the third before, largest of the phases "
        "but training",
        limit=0.1,
        unit=" GiB",
    ),
    Bar(
        name="arithmetic_30m_accuracy_sft",
        what="held-out accuracy on arithmetic of 3 to 5 steps, 30M parameters, after SFT",
        limit=0.4,
    ),
    Bar(
        name="arithmetic_30m_accuracy_grpo",
        what="the same, after GRPO from there",
        limit=0.9,
        is_minimum=True,
    ),
    Bar(
        name="sync_growth_gpu_mib",
        what="50 publishes of Qwen3-4B: growth of GPU memory in use",
        limit=2,
        unit=" MiB",
    ),
    Bar(
        name="sync_growth_host_mib",
        what="the same of host memory, trainer's and engine's processes",
        limit=16,
        unit=" MiB",
    ),
    Bar(
        name="convert_to_torch_dist_over_copy",
        what="8 GB checkpoint, Hugging Face to torch_dist, over `cp -r`",
        limit=2.5,
        cards=(_CPU,),
    ),
    Bar(
        name="convert_to_hf_over_copy",
        what="8 GB checkpoint, torch_dist to Hugging Face, over `cp -r`",
        limit=2.5,
        cards=(_CPU,),
    ),
    Bar(
        name="data_opening_seconds",
        what="opening a data set of 1,000,000 conversations whose index is kept",
        limit=1.0,
        unit=" s",
        cards=(_CPU,),
    ),
    Bar(
        name="grading_right_share",
        what="`math`: reference answers of MATH-500 right against themselves, the worst of five written forms",
        limit=0.99,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="grading_wrong_share",
        what="`math`: reference answers of other rows graded wrong, the worst of five written forms",
        limit=0.99,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="grading_math_per_s",
        what="`math` gradings a second, two cores",
        limit=200,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="grading_dapo_per_s",
        what="`dapo` gradings a second, two cores",
        limit=2000,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="grading_hostile_longest_s",
        what="`math`: 1,000 hostile answers with a limit of 2 s, the longest from question to grade",
        limit=3,
        unit=" s",
        cards=(_CPU,),
    ),
    Bar(
        name="grading_hostile_good_share",
        what="`math`: good answers between the hostile ones graded as right",
        limit=1,
        is_minimum=True,
        cards=(_CPU,),
    ),
    Bar(
        name="packing_imbalance",
        what="2,048 samples packed on 8 ranks, largest over mean tokens",
        limit=1.02,
        cards=(_CPU,),
    ),
    Bar(name="packing_seconds", what="packing of 4,096 samples", limit=1.0, unit=" s", cards=(_CPU,)),
    Bar(
        name="convert_peak_gib",
        what="peak memory of a conversion of 8 GB, either way",
        limit=3.0,
        unit=" GiB",
        cards=(_CPU,),
    ),
)


def main() -> int:
    """Writes the table into the README; with --check only says whether it is there. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.table", description="The README's table of numbers.")
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the table is out of date")
    flags = parser.parse_args()
    old = README.read_text()
    new = with_table(old, table(read_all(RESULTS)))
    if flags.check:
        if new != old:
            print(f"{README.name}: the table of numbers is out of date; run python -m bench.table", file=sys.stderr)
        return int(new != old)
    README.write_text(new)
    return 0


def read_all(folder: Path) -> dict[str, list[Record]]:
    """Name -> its records, the newest first."""
    return {file.stem: read(file) for file in sorted(folder.glob("*.json"))}


def table(records: Mapping[str, Sequence[Record]]) -> str:
    """A row for each bar and card, with the newest record; bars without one are named as not measured."""
    return "\n".join([_HEAD, *(row for bar in BARS for row in _rows(bar, records.get(bar.name, ())))])


def _rows(bar: Bar, records: Sequence[Record]) -> list[str]:
    newest: dict[str, Record] = {}
    for record in records:
        newest.setdefault(record.card, record)
    cards = [*bar.cards, *(card for card in newest if card not in bar.cards)]
    return [_row(bar, card, newest.get(card)) for card in cards]


def _row(bar: Bar, card: str, record: Record | None) -> str:
    if record is None:
        return f"| {bar.what} | {bar.text} | not measured | | {card} | | |"
    verdict = ("met" if bar.is_met(record.value) else "**missed**") if card in bar.cards else ""
    value = f"{record.value:{'.4g' if record.value < 1e4 else '.0f'}}{bar.unit}"
    return f"| {bar.what} | {bar.text} | {value} | {verdict} | {card} | {record.commit} | {record.date} |"


def with_table(text: str, rows: str) -> str:
    """The text with the rows between its markers.

    Raises:
        ValueError: if the markers are not there once each, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after:
        raise ValueError(f"{README.name}: expected the lines {BEGIN!r} and {END!r}, once each")
    return f"{before}{BEGIN}\n{rows}\n{END}{after}"


if __name__ == "__main__":
    sys.exit(main())
