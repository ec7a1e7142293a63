"""`python -m recipes.toy --out DIR --seed 0`: the tiny model and its data sets."""

import argparse
import sys
from pathlib import Path

from recipes.console import StepConsole
from recipes.errors import UsageError
from recipes.toy.arithmetic import make_conversations, make_problems
from recipes.toy.model import make_tiny_model, require_empty

_NUM_CONVERSATIONS = 12_000
_NUM_TRAIN_PROBLEMS = 1_000
_NUM_EVAL_PROBLEMS = 128


def main() -> int:
    """Reads the flags, writes the files, returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.toy", description="A tiny Qwen3 and small data sets.")
    parser.add_argument("--out", type=Path, required=True, help="new or empty folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of the data")
    flags = parser.parse_args()
    try:
        require_empty(flags.out)
    except UsageError as error:
        parser.error(str(error))
    make_tiny_model(flags.out / "model", flags.seed)
    make_conversations(flags.out / "conversations.jsonl", _NUM_CONVERSATIONS, flags.seed)
    make_problems(flags.out / "train.jsonl", _NUM_TRAIN_PROBLEMS, flags.seed, "train")
    make_problems(flags.out / "eval.jsonl", _NUM_EVAL_PROBLEMS, flags.seed, "eval")
    StepConsole().say(f"{flags.out}: model, conversations.jsonl, train.jsonl, eval.jsonl")
    return 0


if __name__ == "__main__":
    sys.exit(main())
