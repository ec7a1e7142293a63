"""Learning at 30 million parameters: held-out accuracy on chains of operations after SFT, and after GRPO from there.

    python -m bench.arithmetic_30m --work DIR [--seed 0] [--limit-s 3600] [--out DIR] [-- GRPO FLAGS]

Runs the three commands of recipes/README.md, each as its user does: recipes.toy, recipes.sft, recipes.grpo. A run of
GRPO that is not over --limit-s after the start of the first is stopped after its step, and nothing is recorded then.
DIR/curve gets what a report needs: metrics.jsonl of both runs, summary.json, config.yaml, samples of some steps and
the tokenizer; report.html too where plotly is installed, and elsewhere by `python -m recipes.report DIR/curve`.
Records: arithmetic_30m_accuracy_sft and arithmetic_30m_accuracy_grpo, of one sample at temperature 1 for each of the
held-out chains.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.record import add_out_flag, measured, report
from recipes.report import write_report
from recipes.run_folder import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, SUMMARY_FILE
from recipes.summary import Summary, read_summary

_END_S = 120.0
_KEPT_EVERY = 5
_KEPT_SAMPLES = 16
_TAIL_CHARS = 3000


def main() -> int:
    """Runs the three commands and prints the records; 1 if one failed or GRPO had to be stopped."""
    flags, grpo_flags = _flags()
    started = time.monotonic()
    work, seconds = flags.work, dict[str, float]()
    work.mkdir(parents=True)
    code = 0
    for name, argv in commands(work, flags.seed, flags.num_sft_steps, grpo_flags).items():
        began = time.monotonic()
        code = _run(name, argv, work, deadline=started + flags.limit_s)
        seconds[name] = round(time.monotonic() - began, 1)
        if code:
            print(f"{name} ended with {code}; the end of its log:\n{_tail(work / f'{name}.log')}", file=sys.stderr)
            break
    if not (work / "grpo" / SAMPLES_FILE).exists():
        return 1
    summary = _gather(work, seconds=time.monotonic() - started, seed=flags.seed)
    records = [
        measured("arithmetic_30m_accuracy_sft", summary.accuracy_before, "share"),
        measured("arithmetic_30m_accuracy_grpo", summary.accuracy_after, "share"),
    ]
    metrics = _metrics(work / "curve" / METRICS_FILE)
    details = {
        "seconds": seconds,
        "exit_code": code,
        "line": summary.line(),
        "accuracy_by_step": {line["step"]: line["accuracy"] for line in metrics if line["phase"] == "eval"},
        "reward_by_step": {line["step"]: round(line["reward_mean"], 4) for line in metrics if line["phase"] == "grpo"},
    }
    report([] if code else records, details, flags.out)
    return int(code != 0)


def _flags() -> tuple[argparse.Namespace, list[str]]:
    own, grpo = sys.argv[1:], list[str]()
    if "--" in own:
        own, grpo = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m bench.arithmetic_30m", description="Learning at 30M.", usage="%(prog)s [flags] [-- GRPO FLAGS]"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of data and runs; there must be none yet")
    parser.add_argument("--seed", type=int, default=0, help="of model, data, training and sampling")
    parser.add_argument("--num-sft-steps", type=int, help="optimizer steps of SFT; default: the preset's")
    parser.add_argument("--limit-s", type=float, default=3600.0, help="seconds after which GRPO is stopped")
    add_out_flag(parser)
    flags = parser.parse_args(own)
    if flags.work.exists():
        parser.error(f"--work {flags.work}: there is something already")
    return flags, grpo


def commands(
    work: Path, seed: int, num_sft_steps: int | None = None, grpo_flags: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Recipe -> its flags, in the order in which they run."""
    data, seeds = work / "data", ["--seed", str(seed + 1), "--rollout-seed", str(seed)]  # Megatron's is positive
    toy = ["--out", str(data), "--model-size", "30m", "--task", "chains", "--seed", str(seed)]
    sft = ["--preset", "arithmetic_30m_sft", "--hf-checkpoint", str(data / "model")]
    sft += ["--prompt-data", str(data / "conversations.jsonl"), "--run-dir", str(work / "sft"), *seeds]
    sft += [] if num_sft_steps is None else ["--num-rollout", str(num_sft_steps)]
    grpo = ["--preset", "arithmetic_30m_grpo", "--hf-checkpoint", str(work / "sft" / "model")]
    grpo += ["--prompt-data", str(data / "train.jsonl"), "--eval-prompt-data", "arithmetic", str(data / "eval.jsonl")]
    grpo += ["--run-dir", str(work / "grpo"), *seeds, *grpo_flags]
    return {"toy": toy, "sft": sft, "grpo": grpo}


def _run(name: str, argv: Sequence[str], work: Path, *, deadline: float) -> int:
    """The recipe's exit code. After the deadline it is asked to end after its step, and in the end made to."""
    with (work / f"{name}.log").open("w") as log:
        command = [sys.executable, "-m", f"recipes.{name}", *argv]
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        for wait_s in (max(0.0, deadline - time.monotonic()), _END_S):
            try:
                return process.wait(wait_s)
            except subprocess.TimeoutExpired:
                process.terminate()
        process.kill()
        return process.wait()


def _gather(work: Path, *, seconds: float, seed: int) -> Summary:
    """Fills DIR/curve."""
    curve, grpo = work / "curve", work / "grpo"
    (curve / "model").mkdir(parents=True)
    metrics = [(work / run / METRICS_FILE).read_text() for run in ("sft", "grpo")]
    (curve / METRICS_FILE).write_text("".join(metrics))
    shutil.copy2(grpo / CONFIG_FILE, curve / CONFIG_FILE)
    shutil.copy2(work / "data" / "model" / "tokenizer.json", curve / "model" / "tokenizer.json")
    copy_some_samples(grpo / SAMPLES_FILE, curve / SAMPLES_FILE)
    summary = read_summary(curve / METRICS_FILE, seconds=seconds, seed=seed)
    summary.write(curve / SUMMARY_FILE)
    try:
        write_report(curve)
    except ModuleNotFoundError as error:
        print(f"no report: {error}; python -m recipes.report {curve} writes it where it is installed", file=sys.stderr)
    return summary


def copy_some_samples(source: Path, target: Path) -> None:
    """Copies the first samples of the first step and of every few: a run's samples are some hundred MB."""
    counts: dict[int, int] = {}
    with source.open() as lines, target.open("w") as out:
        for line in lines:
            step = json.loads(line)["metadata"]["step"]
            counts[step] = counts.get(step, 0) + 1
            if counts[step] <= _KEPT_SAMPLES and (step == 1 or step % _KEPT_EVERY == 0):
                out.write(line)


def _metrics(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-_TAIL_CHARS:]


if __name__ == "__main__":
    sys.exit(main())
