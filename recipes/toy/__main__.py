"""`python -m recipes.toy --out DIR [--model-size 30m] [--task chains] [--seed 0]`: a small model and its data sets."""

import argparse
import sys
from pathlib import Path

from recipes.console import StepConsole
from recipes.errors import UsageError
from recipes.toy.files import make_conversations, make_problems
from recipes.toy.model import make_model, require_empty

_NUM_CONVERSATIONS = {"sums": 12_000, "chains": 60_000}
_NUM_TRAIN_PROBLEMS = {"sums": 1_000, "chains": 8_000}
_NUM_EVAL_PROBLEMS = {"sums": 128, "chains": 256}


def main() -> int:
    """Reads the flags, writes the files, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.toy", description="A small Qwen3 and data sets for it.")
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder to write to")
    parser.add_argument(
        "--model-size", choices=("tiny", "30m"), default="tiny", help="0.9 million parameters in fp32, or 30 in bf16"
    )
    parser.add_argument(
        "--task", choices=("sums", "chains"), default="sums", help="sums of two numbers, or chains of 3 to 5 operations"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the data")
    flags = parser.parse_args()
    try:
        require_empty(flags.out)
    except UsageError as error:
        parser.error(str(error))
    out, seed, task = flags.out, flags.seed, flags.task
    make_model(out / "model", seed, flags.model_size)
    make_conversations(out / "conversations.jsonl", _NUM_CONVERSATIONS[task], seed, task)
    make_problems(out / "train.jsonl", _NUM_TRAIN_PROBLEMS[task], seed, "train", task)
    make_problems(out / "eval.jsonl", _NUM_EVAL_PROBLEMS[task], seed, "eval", task)
    StepConsole().say(f"{out}: model, conversations.jsonl, train.jsonl, eval.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
