"""When and on what a policy is evaluated."""

from dataclasses import dataclass, field

from recipes.config.checks import require_at_least
from recipes.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluation on held-out prompts, if there are any. What is not given is as in training.

    Raises:
        UsageError: if a value makes no sense.
    """

    eval_prompt_data: tuple[str, ...] = field(
        default=(), metadata={"help": "held-out data sets as pairs: NAME FILE [NAME FILE ...]"}
    )
    eval_interval: int | None = field(
        default=None, metadata={"help": "rollouts between two evaluations; default: before and after training only"}
    )
    skip_eval_before_train: bool = field(default=False, metadata={"help": "do not evaluate before the first rollout"})
    n_samples_per_eval_prompt: int = field(default=1, metadata={"help": "samples drawn for an evaluation prompt"})
    eval_temperature: float | None = field(default=None, metadata={"help": "sampling temperature; 0: the likeliest"})
    eval_top_p: float | None = field(default=None, metadata={"help": "nucleus sampling; 1: off"})
    eval_top_k: int | None = field(default=None, metadata={"help": "sampling from the k likeliest tokens; -1: off"})
    eval_max_response_len: int | None = field(default=None, metadata={"help": "new tokens of a sample at most"})
    eval_input_key: str | None = field(default=None, metadata={"help": "key of the prompt"})
    eval_rm_type: str | None = field(default=None, metadata={"help": "grader, or a weighted sum of several"})
    eval_label_key: str | None = field(default=None, metadata={"help": "key of the reference answer"})

    def __post_init__(self) -> None:
        require_at_least(self, 1, "eval_interval", "n_samples_per_eval_prompt", "eval_max_response_len")
        require_at_least(self, 0, "eval_temperature")
        if self.eval_top_p is not None and not 0 < self.eval_top_p <= 1:
            raise UsageError(f"--eval-top-p {self.eval_top_p}: expected a share above 0, at most 1")
        if self.eval_top_k is not None and self.eval_top_k != -1 and self.eval_top_k < 1:
            raise UsageError(f"--eval-top-k {self.eval_top_k}: expected -1 or at least 1")
        names, files = self.eval_prompt_data[::2], self.eval_prompt_data[1::2]
        if len(names) != len(files) or len(set(names)) != len(names):
            got = " ".join(self.eval_prompt_data)
            raise UsageError(f"--eval-prompt-data {got}: expected pairs NAME FILE with different names")

    @property
    def data_sets(self) -> dict[str, str]:
        """Name -> file."""
        return dict(zip(self.eval_prompt_data[::2], self.eval_prompt_data[1::2], strict=True))

    def is_due(self, step: int, *, num_rollouts: int) -> bool:
        """Whether an evaluation follows `step`, counted from 1; one always follows the last."""
        return step == num_rollouts or (self.eval_interval is not None and step % self.eval_interval == 0)
