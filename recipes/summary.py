"""The numbers that a run ends with."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean

from recipes.report.metrics import read_metrics

_WINDOW = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What GRPO did, before and after."""

    seconds: float
    reward_first: float
    """Mean training reward of the first 5 steps."""
    reward_last: float
    """Mean training reward of the last 5 steps."""
    accuracy_before: float
    accuracy_after: float
    logprob_abs_diff_max: float
    """Largest of the steps' mean absolute differences between rollout and training log-probabilities."""
    steps: int
    seed: int

    def line(self) -> str:
        """One line for the terminal."""
        return (
            f"reward {self.reward_first:.2f} -> {self.reward_last:.2f}  "
            f"held-out accuracy {self.accuracy_before:.2f} -> {self.accuracy_after:.2f}  "
            f"logprob diff <= {self.logprob_abs_diff_max:.1e}  {self.seconds:.0f} s"
        )

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")


def read_summary(metrics_file: Path, *, seconds: float, seed: int) -> Summary:
    """The summary of a GRPO run with evaluations, from its metrics."""
    records = read_metrics(metrics_file)
    rewards = [record.reward_mean for record in records["grpo"] if record.reward_mean is not None]
    accuracies = [record.accuracy for record in records["eval"] if record.accuracy is not None]
    differences = [record.logprob_abs_diff for record in records["grpo"] if record.logprob_abs_diff is not None]
    return Summary(
        seconds=round(seconds, 1),
        reward_first=mean(rewards[:_WINDOW]),
        reward_last=mean(rewards[-_WINDOW:]),
        accuracy_before=accuracies[0],
        accuracy_after=accuracies[-1],
        logprob_abs_diff_max=max(differences),
        steps=len(rewards),
        seed=seed,
    )
