"""Graders by name."""

import importlib.util
from collections.abc import Mapping

from rl_data.errors import DataError
from rl_data.grading.config import GraderConfig
from rl_data.grading.graders.boxed import grade_boxed
from rl_data.grading.graders.by_answer import AnswerFunction, AnswerGrader
from rl_data.grading.graders.custom import CustomGrader
from rl_data.grading.graders.dapo import grade_dapo
from rl_data.grading.graders.deepscaler import grade_deepscaler
from rl_data.grading.graders.format import FormatGrader
from rl_data.grading.graders.grader import Grader
from rl_data.grading.graders.gsm8k import grade_gsm8k
from rl_data.grading.graders.math import grade_math
from rl_data.grading.graders.multiple_choice import grade_multiple_choice
from rl_data.grading.graders.overlong import OverlongGrader
from rl_data.grading.graders.remote import RemoteGrader
from rl_data.grading.workers.pool import WorkerPool

ANSWER_FUNCTIONS: Mapping[str, AnswerFunction] = {
    "boxed": grade_boxed,
    "dapo": grade_dapo,
    "deepscaler": grade_deepscaler,
    "gsm8k": grade_gsm8k,
    "math": grade_math,
    "multiple_choice": grade_multiple_choice,
}
"""Graders that compare with a reference answer."""

NEEDS_MATH = frozenset({"deepscaler", "math"})
"""Those whose functions can give a comparison for a worker."""


def make_grader(name: str, config: GraderConfig, math_workers: WorkerPool) -> Grader:
    """The grader of one name, for which `config` has what it needs.

    Args:
        name: one of `rl_data.grading.RM_TYPES`.
        config: see `GraderConfig.check_has`.
        math_workers: what compares as mathematics.

    Raises:
        DataError: if a library is not installed, or the user's function cannot be imported.
    """
    if name == "custom":
        assert config.custom_rm_path is not None
        return CustomGrader(config.custom_rm_path, num_workers=config.rm_num_workers, timeout_s=config.rm_timeout_s)
    if name == "format":
        return FormatGrader()
    if name == "overlong":
        assert config.overlong_buffer_len is not None
        return OverlongGrader(max_tokens=config.rollout_max_response_len, buffer_tokens=config.overlong_buffer_len)
    if name == "remote":
        assert config.rm_url is not None
        return RemoteGrader(
            config.rm_url,
            timeout_s=config.rm_timeout_s,
            max_concurrency=config.rm_max_concurrency,
            max_retries=config.rm_max_retries,
        )
    if name in NEEDS_MATH and importlib.util.find_spec("math_verify") is None:
        raise DataError(f"rm-type {name} needs math-verify: pip install 'rl-data[math]'")
    return AnswerGrader(name, ANSWER_FUNCTIONS[name], math_workers)
