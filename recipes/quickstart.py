"""The whole job on a tiny model, on two CPU cores: data, SFT, conversion, GRPO, report.

`python -m recipes.quickstart` runs the same recipes that big runs use, one after the other, in one Ray cluster.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recipes import grpo, sft
from recipes.arguments import ForeignParsers
from recipes.cluster import ray_cluster
from recipes.config.checks import require_at_least
from recipes.console import StepConsole
from recipes.ending import run_to_its_end
from recipes.errors import UsageError
from recipes.report import write_report
from recipes.run_folder import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, SUMMARY_FILE
from recipes.summary import Summary, read_summary
from recipes.toy import make_conversations, make_problems, make_tiny_model
from rl_weights import convert_hf_to_torch_dist, convert_torch_dist_to_hf, diff_checkpoints

PROGRAM = "python -m recipes.quickstart"
_NUM_CONVERSATIONS = 12_000
_NUM_PROBLEMS = 1_000
_NUM_EVAL_PROBLEMS = 128
_NUM_ACTORS = 3  # two trainer ranks and an engine


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartFolders:
    """Where the parts of a quickstart lie in its run folder."""

    root: Path

    @property
    def data(self) -> Path:
        """The tiny model and the data sets."""
        return self.root / "data"

    @property
    def sft(self) -> Path:
        """The SFT run."""
        return self.root / "sft"

    @property
    def torch_dist(self) -> Path:
        """The SFT model as Megatron's checkpoint."""
        return self.root / "torch_dist"

    @property
    def round_trip(self) -> Path:
        """That checkpoint back in Hugging Face format."""
        return self.root / "round_trip"

    @property
    def grpo(self) -> Path:
        """The GRPO run."""
        return self.root / "grpo"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuickstartSettings:
    """What a user may set.

    Raises:
        UsageError: if the folder holds something already, or a number makes no sense.
    """

    run_dir: Path = Path("runs/quickstart")
    seed: int = 0
    num_sft_steps: int | None = None
    num_rollout: int | None = None

    def __post_init__(self) -> None:
        if self.run_dir.exists() and (not self.run_dir.is_dir() or any(self.run_dir.iterdir())):
            raise UsageError(f"--run-dir {self.run_dir}: expected a new or empty folder; remove it or name another")
        require_at_least(self, 0, "seed")
        require_at_least(self, 1, "num_sft_steps", "num_rollout")


def main(argv: Sequence[str]) -> int:
    """Runs the quickstart; returns the exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="The whole job on a tiny model.", allow_abbrev=False)
    parser.add_argument("--run-dir", type=Path, default=Path("runs/quickstart"), help="new or empty folder")
    parser.add_argument("--seed", type=int, default=0, help="seed of model, data, training and sampling")
    parser.add_argument("--num-sft-steps", type=int, default=None, help="optimizer steps of SFT; default: the preset's")
    parser.add_argument("--num-rollout", type=int, default=None, help="steps of GRPO; default: the preset's")
    flags = parser.parse_args(argv)
    return run_to_its_end(
        PROGRAM,
        lambda: QuickstartSettings(
            run_dir=flags.run_dir, seed=flags.seed, num_sft_steps=flags.num_sft_steps, num_rollout=flags.num_rollout
        ),
        quickstart,
    )


def quickstart(settings: QuickstartSettings) -> Summary:
    """From nothing to a trained model and its report, all in the run folder."""
    started = time.monotonic()
    console, folders = StepConsole(), QuickstartFolders(root=settings.run_dir)
    make_inputs(folders, settings.seed)
    with ray_cluster(num_actors=_NUM_ACTORS):
        with ForeignParsers() as parsers:
            console.say("SFT: the tiny model learns to answer from conversations")
            sft.run(sft.read_job(sft_flags(folders, settings.seed, settings.num_sft_steps), parsers))
            console.say("conversion: Hugging Face -> torch_dist -> Hugging Face")
            console.say(check_round_trip(folders))
            console.say("GRPO: the model learns from graded answers")
            job = grpo.read_job(grpo_flags(folders, settings.seed, settings.num_rollout), parsers)
        grpo.run(job)
    gather(folders)
    summary = read_summary(folders.root / METRICS_FILE, seconds=time.monotonic() - started, seed=settings.seed)
    summary.write(folders.root / SUMMARY_FILE)
    report = write_report(folders.root)
    console.say(f"{summary.line()}  report: {report}")
    return summary


def make_inputs(folders: QuickstartFolders, seed: int) -> None:
    """The tiny model, conversations to imitate, problems to solve, and problems held out."""
    make_tiny_model(folders.data / "model", seed)
    make_conversations(folders.data / "conversations.jsonl", _NUM_CONVERSATIONS, seed)
    make_problems(folders.data / "train.jsonl", _NUM_PROBLEMS, seed, "train")
    make_problems(folders.data / "eval.jsonl", _NUM_EVAL_PROBLEMS, seed, "eval")


def sft_flags(folders: QuickstartFolders, seed: int, num_steps: int | None) -> list[str]:
    """The command line of the SFT run."""
    return [
        *("--preset", "tiny_sft"),
        *("--hf-checkpoint", str(folders.data / "model")),
        *("--prompt-data", str(folders.data / "conversations.jsonl")),
        *("--run-dir", str(folders.sft)),
        *("--seed", str(seed + 1), "--rollout-seed", str(seed)),  # Megatron wants a positive seed
        *(() if num_steps is None else ("--num-rollout", str(num_steps))),
    ]


def grpo_flags(folders: QuickstartFolders, seed: int, num_rollout: int | None) -> list[str]:
    """The command line of the GRPO run."""
    return [
        *("--preset", "tiny_math"),
        *("--hf-checkpoint", str(folders.sft / "model")),
        *("--load", str(folders.torch_dist)),
        *("--prompt-data", str(folders.data / "train.jsonl")),
        *("--eval-prompt-data", "arithmetic", str(folders.data / "eval.jsonl"), "--eval-interval", "10"),
        *("--run-dir", str(folders.grpo)),
        *("--seed", str(seed + 1), "--rollout-seed", str(seed)),
        *(() if num_rollout is None else ("--num-rollout", str(num_rollout))),
    ]


def check_round_trip(folders: QuickstartFolders) -> str:
    """Converts the SFT model to torch_dist and back, and says that not a bit changed.

    Raises:
        RuntimeError: if one did.
    """
    model = folders.sft / "model"
    report = convert_hf_to_torch_dist(model, folders.torch_dist, make_vocab_size_divisible_by=1)
    convert_torch_dist_to_hf(folders.torch_dist, model, folders.round_trip)
    difference = diff_checkpoints(model, folders.round_trip)
    if not difference.is_equal:
        raise RuntimeError(f"the conversion changed the model: {difference}")
    return f"{report.num_tensors} tensors, {report.num_bytes / 2**20:.1f} MiB: the round trip is exact"


def gather(folders: QuickstartFolders) -> None:
    """Brings the results of both runs together at the top of the run folder."""
    metrics = [(run / METRICS_FILE).read_text() for run in (folders.sft, folders.grpo)]
    (folders.root / METRICS_FILE).write_text("".join(metrics))
    for name in (CONFIG_FILE, SAMPLES_FILE):
        shutil.copy2(folders.grpo / name, folders.root / name)
    shutil.move(folders.grpo / "model", folders.root / "model")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
