"""What a GRPO step and an evaluation leave in metrics.jsonl and on the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

from recipes.grpo.evaluation import EvalSet
from recipes.memory_use import peak
from recipes.run_folder import MetricsLine
from rl_data import FinishReason, Sample
from rl_rollout import EvalReport, RolloutResult
from rl_train.trainer import StepResult

# metrics.jsonl holds all of a record; a line on the terminal holds these.
_SHOWN = {
    "reward_mean": "reward",
    "accuracy": "accuracy",
    "loss": "loss",
    "logprob_abs_diff": "logprob diff",
    "response_length_mean": "length",
    "truncated_share": "truncated",
}
_SHOWN_COUNTS = {"num_failed_samples": "failed", "num_dropped_groups": "dropped"}  # where they are not 0
_PASS_AT = "pass_at_"
_SWITCHING = ("release", "resume", "publish")


def grpo_record(
    step: int,
    drawn: RolloutResult,
    results: Sequence[StepResult],
    *,
    seconds: Mapping[str, float],
    memory_gib: Mapping[str, float],
    prompts: Mapping[str, int],
) -> MetricsLine:
    """One line of metrics: the rollout's numbers, the means over its optimizer steps, and what it all took.

    Of the seconds, "grade" is what collecting took beyond generation: the grading that no generation hid. "switch" is
    the sum of those between training and generation: release, resume and publish. No other parts overlap.
    logprob_abs_diff is that of the first optimizer step, whose weights are those that drew the samples.
    `prompts` are counts, from the start of the run, of prompts that were dropped or cut, and of bad rows.
    """
    metrics = {name: sum(result.metrics[name] for result in results) / len(results) for name in results[0].metrics}
    return {
        "phase": "grpo",
        "step": step,
        **{name: value for name, value in drawn.metrics.items() if not name.endswith("_s")},
        **{f"dropped_{reason}": count for reason, count in drawn.drop_counts.items()},
        **prompts,
        **metrics,
        "logprob_abs_diff": results[0].metrics["logprob_abs_diff"],
        "loss": sum(result.loss for result in results) / len(results),
        "grad_norm": max(result.grad_norm for result in results),
        "learning_rate": results[-1].learning_rate,
        "num_skipped_steps": sum(result.is_skipped for result in results),
        "seconds": {
            "generate": drawn.metrics["generate_s"],
            "grade": max(0.0, drawn.metrics["collect_s"] - drawn.metrics["generate_s"]),
            **seconds,
            "switch": sum(seconds.get(phase, 0.0) for phase in _SWITCHING),
        },
        "memory_gib": memory_gib,
    }


def eval_record(step: int, eval_set: EvalSet, report: EvalReport) -> MetricsLine:
    """One line of metrics for one evaluation set."""
    return {
        "phase": "eval",
        "step": step,
        "data_set": eval_set.name,
        "num_prompts": len(eval_set.prompts),
        "num_dropped_prompts": eval_set.num_dropped_prompts,
        "accuracy": report.accuracy,
        **{f"{_PASS_AT}{k}": value for k, value in report.pass_at_k.items()},
        "reward_mean": report.reward_mean,
        "response_length_mean": report.response_length_mean,
        "truncated_share": report.truncated_share,
        "num_failed_samples": report.num_failed_samples,
        "num_generate_timeouts": report.num_generate_timeouts,
        "num_grader_timeouts": report.num_grader_timeouts,
        "num_grader_crashes": report.num_grader_crashes,
    }


def step_line(record: MetricsLine) -> dict[str, float | str]:
    """The part of a record that a line on the terminal shows."""
    line: dict[str, float | str] = {}
    if "data_set" in record:
        line["on"] = str(record["data_set"])
    line |= {shown: cast("float", record[name]) for name, shown in _SHOWN.items() if name in record}
    if len(passes := [name for name in record if name.startswith(_PASS_AT)]) > 1:  # that of one sample is the accuracy
        line[f"pass@{passes[-1].removeprefix(_PASS_AT)}"] = cast("float", record[passes[-1]])
    counts = {shown: cast("float", record.get(name, 0)) for name, shown in _SHOWN_COUNTS.items()}
    line |= {shown: f"{count:.0f}" for shown, count in counts.items() if count}
    if isinstance(seconds := record.get("seconds"), Mapping):
        line |= {"switch": seconds["switch"], "s": seconds["step"]}
    if isinstance(memory_gib := record.get("memory_gib"), Mapping):
        name, gib = peak(memory_gib)
        line[name] = gib
    return line


def failure_note(samples: Iterable[Sample]) -> str:
    """How many samples failed, with the reason of the first; empty if none did."""
    reasons = [str(sample.metadata.get("error")) for sample in samples if sample.finish_reason is FinishReason.ERROR]
    if not reasons:
        return ""
    samples_failed = f"{len(reasons)} sample{'' if len(reasons) == 1 else 's'} failed"
    return f"warning: {samples_failed}; the first: {reasons[0].partition('\n')[0]}"
