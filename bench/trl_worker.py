"""One measurement of TRL's SFTTrainer, in a process of its own: `bench.sft_over_trl` starts it.

It prints a line of JSON: the seconds of each timed step and the most memory that was in use.
"""

# pyright: standard
# TRL is not part of the project's environment.

import argparse
import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

RESULT_MARK = "trl result: "


def main() -> None:
    """Trains for some steps and prints what they took."""
    parser = argparse.ArgumentParser(description="One measurement of TRL's SFTTrainer.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sequences", type=int, required=True, help="sequences of an optimizer step")
    parser.add_argument("--sequence-tokens", type=int, required=True)
    parser.add_argument("--per-device-batch", type=int, required=True, help="sequences of a forward pass")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--warmup", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    print(RESULT_MARK + json.dumps(_measure(parser.parse_args())))


def _measure(flags: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers
    import trl
    from transformers import TrainerCallback

    is_cuda = torch.cuda.is_available()
    ends: list[float] = []

    class Stopwatch(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if is_cuda:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = trl.SFTTrainer(
            model=str(flags.model),
            args=_config(trl, flags, folder, is_cuda=is_cuda),
            train_dataset=_data(flags),
            callbacks=[Stopwatch()],
        )
        dtypes = sorted({str(parameter.dtype) for parameter in trainer.model.parameters()})
        trainer.train()
        states = sorted(
            {
                str(value.dtype)
                for state in trainer.optimizer.state.values()
                for name, value in state.items()
                if name != "step"
            }
        )
    seconds = [end - start for start, end in itertools.pairwise(ends)]
    return {
        "all_seconds": [round(one, 4) for one in seconds[flags.warmup - 1 :]],
        "peak_allocated_gib": torch.cuda.max_memory_allocated() / 2**30 if is_cuda else 0.0,
        "attention": trainer.model.config._attn_implementation,
        "parameter_dtypes": dtypes,
        "optimizer_state_dtypes": states,
        "losses": [round(entry["loss"], 4) for entry in trainer.state.log_history if "loss" in entry],
        "versions": {"trl": trl.__version__, "transformers": transformers.__version__, "torch": torch.__version__},
    }


def _config(trl: Any, flags: argparse.Namespace, folder: str, *, is_cuda: bool) -> Any:
    return trl.SFTConfig(
        output_dir=folder,
        model_init_kwargs={"dtype": "bfloat16" if is_cuda else "float32", "attn_implementation": "sdpa"},
        bf16=is_cuda,
        use_cpu=not is_cuda,
        per_device_train_batch_size=flags.per_device_batch,
        gradient_accumulation_steps=flags.sequences // flags.per_device_batch,
        gradient_checkpointing=flags.gradient_checkpointing,
        max_length=flags.sequence_tokens,
        max_steps=flags.warmup + flags.steps,
        learning_rate=1e-5,
        lr_scheduler_type="constant",
        logging_steps=flags.warmup + flags.steps,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=is_cuda,
    )


def _data(flags: argparse.Namespace) -> Any:
    """Random sequences of full length, every token trained."""
    import datasets
    import numpy as np

    vocab_size = json.loads((flags.model / "config.json").read_text())["vocab_size"]
    shape = (flags.sequences * (flags.warmup + flags.steps), flags.sequence_tokens)
    tokens = np.random.default_rng(0).integers(0, vocab_size, shape)
    return datasets.Dataset.from_dict({"input_ids": tokens.tolist()})


if __name__ == "__main__":
    main()
