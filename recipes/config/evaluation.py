"""When and on what a policy is evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self, cast

from recipes.config.checks import require_at_least
from recipes.errors import UsageError
from rl_data.json import JsonValue

# What a data set may have of its own, and what JSON makes of it.
_OF_ONE_SET: Mapping[str, tuple[tuple[type, ...], str]] = {
    "n_samples_per_eval_prompt": ((int,), "a whole number"),
    "eval_temperature": ((int, float), "a number"),
    "eval_top_p": ((int, float), "a number"),
    "eval_top_k": ((int,), "a whole number"),
    "eval_max_response_len": ((int,), "a whole number"),
    "eval_input_key": ((str,), "text"),
    "eval_rm_type": ((str,), "text"),
    "eval_label_key": ((str,), "text"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalConfig:
    """Evaluation on held-out prompts, if there are any. What is not given is as in training.

    Raises:
        UsageError: if a value makes no sense.
    """

    eval_prompt_data: tuple[str, ...] = field(
        default=(), metadata={"help": "held-out data sets as pairs: NAME FILE [NAME FILE ...]"}
    )
    eval_settings: dict[str, JsonValue] = field(
        default_factory=dict[str, JsonValue],
        metadata={
            "help": "what single data sets have of their own, as a JSON object of NAME to an object of the flags "
            'below, such as {"aime-2024": {"n-samples-per-eval-prompt": 16, "eval-max-response-len": 16384}}'
        },
    )
    eval_only: bool = field(
        default=False,
        metadata={
            "help": "start the engines alone, evaluate the weights that a run would start from, and end; what says "
            "how to train has no effect, and --prompt-data, --num-rollout, --rollout-batch-size and "
            "--global-batch-size are not needed"
        },
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
        for name in self.eval_settings:
            self.of_set(name)
        if self.eval_only and not names:
            raise UsageError("--eval-only: there is nothing to evaluate on; give --eval-prompt-data NAME FILE")
        if self.eval_only and self.skip_eval_before_train:
            raise UsageError("--eval-only: only what --skip-eval-before-train leaves out is done; give one of them")

    def of_set(self, name: str) -> Self:
        """The settings of one data set: its own, and where it has none, those of all.

        Raises:
            UsageError: if what it has of its own is nothing that it can have, or there is no such data set.
        """
        where = f"--eval-settings {name}"
        if name not in self.data_sets:
            known = ", ".join(self.data_sets) or "none"
            raise UsageError(f"{where}: expected a data set of --eval-prompt-data, which has {known}")
        own = self.eval_settings.get(name, {})
        if not isinstance(own, dict):
            raise UsageError(f"{where}: expected an object of flags to values, got {own!r}")
        chosen: dict[str, Any] = {}
        for flag, value in own.items():
            field_name = flag.replace("-", "_")
            if field_name not in _OF_ONE_SET or "_" in flag:
                known = ", ".join(one.replace("_", "-") for one in _OF_ONE_SET)
                raise UsageError(f"{where}: {flag}: expected one of {known}")
            kinds, expected = _OF_ONE_SET[field_name]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise UsageError(f"{where}: {flag}: expected {expected}, got {value!r}")
            chosen[field_name] = cast("int | float | str", value)
        try:
            return replace(self, eval_settings={}, **chosen)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    @property
    def data_sets(self) -> dict[str, str]:
        """Name -> file."""
        return dict(zip(self.eval_prompt_data[::2], self.eval_prompt_data[1::2], strict=True))

    def is_due(self, step: int, *, num_rollouts: int) -> bool:
        """Whether an evaluation follows `step`, counted from 1; one always follows the last. 0: before the first."""
        if step == 0:
            return not self.skip_eval_before_train
        return step == num_rollouts or (self.eval_interval is not None and step % self.eval_interval == 0)
