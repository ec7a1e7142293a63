"""A checkpoint of any shape that has learned something: random weights after a short SFT on conversations.

    python -m recipes.toy --out TOY
    python -m bench.random_checkpoint --config qwen3-4b --out RANDOM
    python -m bench.warm_checkpoint --model RANDOM --prompt-data TOY/conversations.jsonl --out WARM [--num-steps 100]

Random weights hold every token about equally likely, which no trained model does, and bf16 moves such log-probabilities
by several times what it moves a trained model's. From the toy's few sentences a model of billions of parameters learns
within some ten steps which tokens there are and what an answer looks like: what it then draws has the entropy of a
trained model's text. `bench.grpo_step --prompt-data TOY/train.jsonl` asks it the toy's problems.

One rank takes the steps without Ray and writes no checkpoint of the optimizer, which `recipes.sft` would do at the end.
Nothing is recorded; the JSON holds the losses, in nats a token.
"""

# pyright: standard
# Megatron is annotated in part only.

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.record import report
from rl_data import ConversationDataConfig, ConversationSource, TrainBatch, load_tokenizer, pack

if TYPE_CHECKING:
    from rl_train.megatron.trainer import MegatronTrainer

_NUM_MEASURED = 256
# Of a row of --max-tokens: rows differ in length, and what does not fit would make a second row.
_FILLED = 0.97
_SAID_EVERY = 10


def main() -> int:
    """Trains, writes the folder, prints what the losses were."""
    flags = _flags()
    with contextlib.redirect_stdout(sys.stderr):  # Megatron has something to say
        losses, seconds = _train(flags)
    details = {
        "folder": flags.out.name,
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "losses": [round(loss, 4) for loss in losses[::_SAID_EVERY]],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    report([], details, None)
    return 0


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.warm_checkpoint", description="Random weights after a short SFT."
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder to start from")
    parser.add_argument("--prompt-data", required=True, help="conversations, as recipes.sft takes them")
    parser.add_argument("--out", type=Path, required=True, help="folder of the trained model; there must be none yet")
    parser.add_argument("--num-steps", type=int, default=100)
    parser.add_argument("--max-tokens", type=int, default=16384, help="tokens of a step, at most")
    parser.add_argument("--lr", type=float, default=2e-4, help="highest rate; rises for a tenth of the steps")
    flags = parser.parse_args()
    if flags.out.exists():
        parser.error(f"--out {flags.out}: there is something already")
    if flags.num_steps < 2:
        parser.error(f"--num-steps {flags.num_steps}: expected at least 2")
    return flags


def _train(flags: argparse.Namespace) -> tuple[list[float], dict[str, float]]:
    """Losses of the steps, and the seconds of each part."""
    started = time.perf_counter()
    with _trainer(flags) as trainer:
        batches = _batches(flags)
        at_work = time.perf_counter()
        losses: list[float] = []
        for step in range(1, flags.num_steps + 1):
            result = trainer.train_step(next(batches))
            losses.append(result.loss)
            if step % _SAID_EVERY == 0 or step == flags.num_steps:
                said = f"step {step}: loss {result.loss:.4f}, gradient's norm {result.grad_norm:.3f}"
                print(f"{said}, {(time.perf_counter() - at_work) / step:.2f} s a step", flush=True)
        at_end = time.perf_counter()
        trainer.export_hf(flags.out, flags.model)
    seconds = {"start": at_work - started, "steps": at_end - at_work, "export": time.perf_counter() - at_end}
    return losses, seconds


@contextlib.contextmanager
def _trainer(flags: argparse.Namespace) -> "Iterator[MegatronTrainer]":
    import torch.distributed as dist

    from rl_train.algorithms import sft_loss
    from rl_train.megatron.arguments import parse_megatron_args
    from rl_train.megatron.cpu import enable_cpu_support

    is_cpu = enable_cpu_support()
    from rl_train.megatron.trainer import MegatronTrainer

    config = json.loads((flags.model / "config.json").read_text())
    argv = ["--lr", str(flags.lr), "--min-lr", str(flags.lr / 10), "--lr-decay-style", "cosine"]
    argv += ["--lr-warmup-fraction", "0.1", "--clip-grad", "1.0", "--adam-beta2", "0.95", "--weight-decay", "0.0"]
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(f"{folder}/store", 1)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group("gloo" if is_cpu else "nccl", store=store, rank=0, world_size=1)
        trainer = MegatronTrainer(
            arguments=parse_megatron_args(
                [*argv, *([] if is_cpu else ["--bf16"])],
                model_config=config,
                world_size=1,
                train_iters=flags.num_steps,
            ),
            model_config=config,
            weights=flags.model,
            loss=sft_loss,
        )
        yield trainer
        trainer.close()


def _batches(flags: argparse.Namespace) -> Iterator[TrainBatch]:
    """Steps of about --max-tokens tokens each, without end."""
    data = ConversationDataConfig(prompt_data=flags.prompt_data, rollout_shuffle=True, max_length=flags.max_tokens)
    tokenizer = load_tokenizer(flags.model, needs_chat_template=True)
    measured = ConversationSource(data, tokenizer).next_batch(_NUM_MEASURED)
    tokens_per_row = sum(len(sample.tokens) for sample in measured) / _NUM_MEASURED
    num_rows = max(1, int(_FILLED * flags.max_tokens / tokens_per_row))
    source = ConversationSource(data, tokenizer)
    while True:
        yield pack(source.next_batch(num_rows), num_ranks=1, max_tokens=flags.max_tokens)


if __name__ == "__main__":
    sys.exit(main())
