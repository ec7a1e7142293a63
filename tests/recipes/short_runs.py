"""The flags of runs of a few steps, which are compared to the bit, and what they leave behind."""

import json
from pathlib import Path

from tests.recipes.running import recipe

NUM_SFT_STEPS = 5
NUM_GRPO_STEPS = 6
# So few steps that the model gives the right answer often, but not always; the schedule of another number is the same.
SFT_FLAGS = ("--global-batch-size", 32, "--lr", 4e-3, "--lr-warmup-iters", 0, "--lr-decay-style", "constant")
GRPO_FLAGS = ("--num-rollout", NUM_GRPO_STEPS, "--lr-warmup-iters", 0, "--rollout-batch-size", 4)
GRPO_FLAGS += ("--n-samples-per-prompt", 4, "--global-batch-size", 16, "--eval-interval", 3)


def sft(inputs, run_dir: Path, num_rollout: int, *words) -> list[str]:
    """The command of a short SFT run."""
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.conversations, "--run-dir", run_dir)
    return recipe("sft", *paths, "--num-rollout", num_rollout, *SFT_FLAGS, *words)


def grpo(inputs, run_dir: Path, *words) -> list[str]:
    """The command of a short GRPO run that saves after every step."""
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", inputs.prompts, "--run-dir", run_dir)
    held_out = ("--eval-prompt-data", "held-out", inputs.eval_prompts)
    return recipe("grpo", *paths, *held_out, "--save-interval", 1, *GRPO_FLAGS, *words)


def words_of(preset: str, inputs, folder: Path, *words) -> list[str]:
    """The words of a run that is only read, not started."""
    data = inputs.prompts if preset == "tiny_math" else inputs.conversations
    paths = ("--hf-checkpoint", inputs.model, "--prompt-data", data, "--run-dir", folder / "run")
    return [*map(str, ("--preset", preset, *paths, *words))]


def records(run_dir: Path, name: str = "metrics.jsonl") -> list[dict]:
    """The lines of a file, without what the machine made of it."""
    with (run_dir / name).open() as lines:  # str.splitlines would also cut at U+2028 in a sampled text
        read = [json.loads(line) for line in lines]
    return [{key: value for key, value in line.items() if key not in ("seconds", "memory_gib")} for line in read]


def weights(run_dir: Path) -> bytes:
    """Of the final model."""
    return (run_dir / "model" / "model.safetensors").read_bytes()
