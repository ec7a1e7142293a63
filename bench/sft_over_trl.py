"""SFT tokens/s over those of TRL's SFTTrainer: same model, tokens and card, one run.

    python -m bench.sft_over_trl --model FOLDER [--trl-site DIR] [--setting ...] [--trl GC,BATCH ...] [--out DIR]

Ours is `bench.sft_mfu`, an optimizer step on packed sequences of the same length. TRL runs with its defaults but for
what makes it faster here: weights, gradients and Adam's states in bf16, attention through torch's scaled dot product,
and the better of its settings, which by default are gradient checkpointing on and off with 1, 2 and 4 sequences a
forward pass. A setting that runs out of memory is reported as such. Every measurement has a process of its own.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.record import add_out_flag, measured, report
from bench.trl_worker import RESULT_MARK

_DEFAULT_TRL = ("on,4", "on,1", "off,1", "off,2", "off,4")
_SHOWN_CHARS = 1500


def main() -> int:
    """Measures both and prints the record; 1 if one side gave no number."""
    flags = _flags()
    ours = _ours(flags)
    theirs = [_theirs(flags, setting) for setting in flags.trl]
    details = {"ours": ours, "trl": theirs}
    rates = [run["tokens_per_s"] for run in theirs if "tokens_per_s" in run]
    if not rates or "tokens_per_s" not in ours:
        report([], details, None)
        return 1
    report([measured("sft_over_trl", ours["tokens_per_s"] / max(rates), "ratio")], details, flags.out)
    return 0


def _flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.sft_over_trl", description="SFT tokens/s over TRL's.")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--trl-site", type=Path, help="folder with TRL and accelerate, if they are not installed")
    parser.add_argument("--sequences", type=int, default=4, help="sequences of an optimizer step")
    parser.add_argument("--sequence-tokens", type=int, default=4096)
    parser.add_argument("--setting", action="append", default=[], help="of bench.sft_mfu; the fastest counts")
    parser.add_argument("--trl", nargs="+", default=_DEFAULT_TRL, help="gradient checkpointing, sequences a forward")
    parser.add_argument("--warmup", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=6, help="timed steps")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="of each measurement")
    add_out_flag(parser)
    flags = parser.parse_args()
    for setting in flags.trl:
        checkpointing, _, batch = setting.partition(",")
        if checkpointing not in ("on", "off") or not batch.isdigit() or not int(batch) or flags.sequences % int(batch):
            parser.error(f"--trl {setting}: expected on or off, and a divisor of {flags.sequences}, such as on,1")
    return flags


def _ours(flags: argparse.Namespace) -> Mapping[str, Any]:
    """The fastest setting of bench.sft_mfu, or what went wrong."""
    command = ["bench.sft_mfu", "--model", str(flags.model), "--lengths", f"{flags.sequence_tokens}x{flags.sequences}"]
    command += ["--warmup", str(flags.warmup), "--steps", str(flags.steps), "--timeout-s", str(flags.timeout_s)]
    for setting in flags.setting:
        command += ["--setting", setting]
    done = _run(command, os.environ, flags.timeout_s * max(1, len(flags.setting)) + 60)
    try:
        settings: Sequence[Mapping[str, Any]] = json.loads(done.stdout)["details"]["settings"]
    except ValueError:
        return {"error": f"exit code {done.returncode}", "output": (done.stdout + done.stderr)[-_SHOWN_CHARS:]}
    rates = [one for one in settings if "tokens_per_s" in one]
    return (
        max(rates, key=lambda one: one["tokens_per_s"]) if rates else {"error": "no setting ran", "settings": settings}
    )


def _theirs(flags: argparse.Namespace, setting: str) -> Mapping[str, Any]:
    checkpointing, _, batch = setting.partition(",")
    shown = {"gradient_checkpointing": checkpointing == "on", "per_device_batch": int(batch)}
    command = ["bench.trl_worker", "--model", str(flags.model), "--sequences", str(flags.sequences)]
    command += ["--sequence-tokens", str(flags.sequence_tokens), "--per-device-batch", batch]
    command += ["--warmup", str(flags.warmup), "--steps", str(flags.steps)]
    command += ["--gradient-checkpointing"] if checkpointing == "on" else []
    environment = dict(os.environ)
    environment.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    if flags.trl_site is not None:
        paths = [str(flags.trl_site.absolute()), *filter(None, [environment.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
    done = _run(command, environment, flags.timeout_s)
    for line in done.stdout.splitlines():
        if line.startswith(RESULT_MARK):
            result = json.loads(line.removeprefix(RESULT_MARK))
            seconds = statistics.median(result["all_seconds"])
            return {**shown, "tokens_per_s": flags.sequences * flags.sequence_tokens / seconds, **result}
    return {**shown, "error": f"exit code {done.returncode}", "output": (done.stdout + done.stderr)[-_SHOWN_CHARS:]}


def _run(
    command: Sequence[str], environment: Mapping[str, str], timeout_s: float
) -> "subprocess.CompletedProcess[str]":
    """A module of ours in a process of its own; one that takes too long is killed and has exit code -9."""
    words = [sys.executable, "-m", *command]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(environment)
    ) as process:
        try:
            out, error = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            out, error = process.communicate()
            error += f"\nkilled after {timeout_s:g} s"
    return subprocess.CompletedProcess(words, process.returncode, out, error)


if __name__ == "__main__":
    sys.exit(main())
