"""A GRPO step of the recipe over bare generation plus bare training, and what the steps say of switching and parity.

    python -m bench.grpo_step --model FOLDER --work DIR [--prompt-data FILE] [--preset NAME] [--num-steps 4] [--out DIR]
        [-- RECIPE FLAGS]

Three parts, one after the other, each in processes of its own:
1. recipe: `python -m recipes.grpo` on generated prompts or --prompt-data, interrupted after --num-steps (its final
   checkpoint is no part of a step). A step lasts from one line of metrics.jsonl to the next: all that the run does, the
   writing of samples included. The first step, which compiles, is left out.
2. generation: `sglang.Engine.generate` alone, with the recipe's server arguments, on the requests of the last
   --floor-steps steps, each response as long as it was there.
3. training: `MegatronTrainer` alone, without Ray, on the batches of the same steps.

What each part gave stays in --work, so --parts can spread them over several calls. Records:
- step_over_floor: seconds of a step over those of its bare generation and training, the mean over the floor's steps;
- switch_seconds: release, resume and publish of a step together, the longest of the steps;
- logprob_abs_diff: mean absolute difference of the engine's and the trainer's log-probabilities, the largest of the
  steps;
- memory_growth_gib: memory at the ends of phases, the last third of the steps less the third before, the largest of
  the phases but training, whose memory follows how long the step's samples are; only of at least 30 steps. What
  training would keep shows in the phases after it.
"""

import argparse
import itertools
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.filler_tokenizer import ANSWERS
from bench.record import Record, add_out_flag, measured, report

_PARTS = ("recipe", "generation", "training")
_POLL_S = 0.01
_END_S = 90.0
_PROMPT = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\nA farmer has {} apples in {} boxes and "
    'sells {} of them. How many are left?\n\nRemember to put your answer on its own line after "Answer:".'
)
_NUM_PROMPTS = 2048
_STEPS_OF_GROWTH = 30
_SHOWN = ("response_length_mean", "reward_mean", "grad_norm", "nats_per_token", "logprob_abs_diff")


class _Drawn(msgspec.Struct):
    """What is read of a line of samples.jsonl."""

    rollout_logprobs: list[float]
    loss_mask: list[bool]
    metadata: dict[str, Any]


def main() -> int:
    """Runs the parts and prints the records; 1 if a part failed."""
    flags, recipe_flags = _flags()
    flags.work.mkdir(parents=True, exist_ok=True)
    prompts = flags.prompt_data or write_prompts(flags.work / "prompts.jsonl")
    argv = _recipe_argv(flags, prompts, recipe_flags)
    for part in flags.parts:
        is_whole = _run_recipe(flags, argv) if part == "recipe" else _run_floor(flags, argv, part)
        if not is_whole:
            print(f"{part} failed; the end of its log:\n{_tail(flags.work / f'{part}.log')}", file=sys.stderr)
            return 1
    steps = _read(flags.work / "steps.json")
    floors = {part: _read(flags.work / f"{part}.json") for part in _PARTS[1:] if (flags.work / f"{part}.json").exists()}
    details = {"steps": _step_details(steps), "memory_gib": _memory(steps), "logprob_abs_diff": _parity(steps)}
    floor = _floor(steps, floors)
    report(_records(steps, floor), {**details, "floor": floor}, flags.out)
    return 0


def _flags() -> tuple[argparse.Namespace, list[str]]:
    own, recipe = sys.argv[1:], []
    if "--" in own:
        own, recipe = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m bench.grpo_step",
        description="A GRPO step over its floor.",
        usage="%(prog)s [flags] [-- RECIPE]",
    )
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face model folder")
    parser.add_argument("--work", type=Path, required=True, help="folder for the run and what the parts give")
    parser.add_argument("--prompt-data", type=Path, help="prompts of dapo-math-17k's schema; default: generated")
    parser.add_argument("--preset", default="qwen3_4b_dapo_math_1xh200")
    parser.add_argument("--num-steps", type=int, default=4)
    parser.add_argument("--floor-steps", type=int, default=2, help="last steps that are repeated bare")
    parser.add_argument("--prompts", type=int, default=32, help="prompts of a step")
    parser.add_argument("--samples", type=int, default=8, help="samples of a prompt")
    parser.add_argument("--response-tokens", type=int, default=2048)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS)
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="of each part")
    add_out_flag(parser)
    flags = parser.parse_args(own)
    if not 0 < flags.floor_steps < flags.num_steps:
        parser.error(
            f"--floor-steps {flags.floor_steps}: expected fewer than --num-steps {flags.num_steps}, at least 1"
        )
    return flags, recipe


def write_prompts(file: Path) -> Path:
    """Prompts in the schema of dapo-math-17k, whose labels random responses meet about half the time."""
    rows = (
        {
            "prompt": [{"role": "user", "content": _PROMPT.format(3 * row + 7, row % 9 + 2, row % 97)}],
            "label": ANSWERS[row % len(ANSWERS)],
        }
        for row in range(_NUM_PROMPTS)
    )
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def _recipe_argv(flags: argparse.Namespace, prompts: Path, recipe_flags: Sequence[str]) -> list[str]:
    """The recipe's flags, without the folder of the run."""
    argv = ["--preset", flags.preset, "--hf-checkpoint", str(flags.model), "--prompt-data", str(prompts)]
    # One step more than is waited for: a checkpoint follows the last, and no other is written.
    last = str(flags.num_steps + 1)
    argv += ["--num-rollout", last, "--save-interval", last, "--rollout-batch-size", str(flags.prompts)]
    argv += ["--n-samples-per-prompt", str(flags.samples), "--global-batch-size", str(flags.prompts * flags.samples)]
    return [*argv, "--rollout-max-response-len", str(flags.response_tokens), *recipe_flags]


def _run_recipe(flags: argparse.Namespace, argv: Sequence[str]) -> bool:
    """Runs the recipe for the wanted steps; steps.json gets their metrics and the times at which they came."""
    run = flags.work / "run"
    if run.exists():
        raise SystemExit(
            f"--work {flags.work}: holds a run already; remove {run.name}, or leave `recipe` out of --parts"
        )
    command = [sys.executable, "-m", "recipes.grpo", *argv, "--run-dir", str(run)]
    with (flags.work / "recipe.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        try:
            times = _arrivals(run / "metrics.jsonl", process, flags.num_steps, flags.timeout_s)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
    if len(times) < flags.num_steps:
        return False
    lines = (run / "metrics.jsonl").read_text().splitlines()[: flags.num_steps]
    nats = nats_per_token(run / "samples.jsonl")
    found = [json.loads(line) for line in lines]
    steps = [
        {"arrived_s": at, "nats_per_token": nats[step["step"]], **step} for at, step in zip(times, found, strict=True)
    ]
    (flags.work / "steps.json").write_text(json.dumps(steps))
    return True


def _arrivals(file: Path, process: "subprocess.Popen[bytes]", num_lines: int, timeout_s: float) -> list[float]:
    """When each of the first lines was written, as they come; fewer if the process ends or is too slow."""
    started = time.perf_counter()
    times: list[float] = []
    position = 0
    while len(times) < num_lines:
        # Asked before reading: what a process wrote last is read after its end.
        is_over = process.poll() is not None or time.perf_counter() - started > timeout_s
        if file.exists():
            with file.open("rb") as stream:
                stream.seek(position)
                new = stream.read()
            position += len(new)
            times += [time.perf_counter() - started] * new.count(b"\n")
        if is_over:
            break
        time.sleep(_POLL_S)
    return times[:num_lines]


def nats_per_token(file: Path) -> dict[int, float]:
    """Step -> mean of minus the engine's log-probability over the tokens that it drew: an estimate of their entropy."""
    drawn: dict[int, list[float]] = {}
    with file.open("rb") as lines:
        for line in lines:
            # A run that was interrupted may have left the start of a line.
            if line.endswith(b"\n"):
                one = msgspec.json.decode(line, type=_Drawn)
                values = itertools.compress(one.rollout_logprobs, one.loss_mask)
                drawn.setdefault(one.metadata["step"], []).extend(values)
    return {step: -statistics.fmean(values or [0.0]) for step, values in drawn.items()}


def _run_floor(flags: argparse.Namespace, argv: Sequence[str], part: str) -> bool:
    steps = range(flags.num_steps - flags.floor_steps + 1, flags.num_steps + 1)
    command = [sys.executable, "-m", "bench.grpo_floor", part, "--result", str(flags.work / f"{part}.json")]
    command += ["--samples", str(flags.work / "run" / "samples.jsonl"), "--steps", *map(str, steps)]
    command += ["--", *argv, "--run-dir", str(flags.work / f"unused-{part}")]
    with (flags.work / f"{part}.log").open("w") as log:
        try:
            return not subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=flags.timeout_s).returncode
        except subprocess.TimeoutExpired:
            return False


def _records(steps: Sequence[Mapping[str, Any]], floor: Sequence[Mapping[str, float]]) -> list[Record]:
    records = [
        measured("switch_seconds", max(step["seconds"]["switch"] for step in steps[1:]), "s"),
        measured("logprob_abs_diff", max(step["logprob_abs_diff"] for step in steps), "nats"),
    ]
    if len(steps) >= _STEPS_OF_GROWTH:
        growth = max(_growth(series) for name, series in _series(steps).items() if not name.startswith("train_"))
        records.append(measured("memory_growth_gib", growth, "GiB"))
    if floor:
        ratio = statistics.mean(one["step_over_floor"] for one in floor)
        records.insert(0, measured("step_over_floor", ratio, "ratio"))
    return records


def _floor(steps: Sequence[Mapping[str, Any]], floors: Mapping[str, Mapping[str, float]]) -> list[dict[str, float]]:
    """The steps that were repeated bare, with the seconds of each side; none unless both parts were."""
    if len(floors) < len(_PARTS) - 1:
        return []
    rows: list[dict[str, float]] = []
    for number in sorted(map(int, floors["generation"])):
        step_s = steps[number - 1]["arrived_s"] - steps[number - 2]["arrived_s"]
        bare = {part: seconds[str(number)] for part, seconds in floors.items()}
        row = {"step": number, "step_s": step_s, **{f"bare_{part}_s": seconds for part, seconds in bare.items()}}
        rows.append(row | {"step_over_floor": step_s / sum(bare.values())})
    return rows


def _step_details(steps: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "step": step["step"],
            "wall_s": None if number == 0 else round(step["arrived_s"] - steps[number - 1]["arrived_s"], 3),
            "seconds": {name: round(seconds, 4) for name, seconds in step["seconds"].items()},
            **{key: step[key] for key in _SHOWN},
        }
        for number, step in enumerate(steps)
    ]


def _series(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """What was in use at the end of each phase, over the steps."""
    names = [name for name in steps[-1]["memory_gib"] if name.endswith(("_device", "_resident", "_parked"))]
    return {name: [step["memory_gib"][name] for step in steps[1:] if name in step["memory_gib"]] for name in names}


def _growth(series: Sequence[float]) -> float:
    third = max(1, len(series) // 3)
    return statistics.mean(series[-third:]) - statistics.mean(series[-2 * third : -third] or series[-third:])


def _memory(steps: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    return {
        name: {"second": series[0], "last": series[-1], "max": max(series), "growth": round(_growth(series), 4)}
        for name, series in _series(steps).items()
    }


def _parity(steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    values = [step["logprob_abs_diff"] for step in steps]
    return {"first": values[0], "last": values[-1], "max": max(values), "mean": statistics.mean(values)}


def _read(file: Path) -> Any:
    return json.loads(file.read_text())


def _tail(file: Path) -> str:
    return file.read_text(errors="replace")[-3000:] if file.exists() else "there is none"


if __name__ == "__main__":
    sys.exit(main())
