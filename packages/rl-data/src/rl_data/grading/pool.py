"""Grading many responses at once: the graders of a reward type, and what they share."""

import asyncio
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Self

from rl_data.errors import DataError
from rl_data.grading.config import GraderConfig
from rl_data.grading.grade import Grade, GradeOutcome, Submission
from rl_data.grading.graders.grader import Grader, Grading
from rl_data.grading.graders.make import NEEDS_MATH, make_grader
from rl_data.grading.graders.mixture import Mixture, Part
from rl_data.grading.rm_type import Term, parse_rm_type
from rl_data.grading.workers.messages import MATH
from rl_data.grading.workers.pool import WorkerPool
from rl_data.json import JsonValue


class GraderPool:
    """Grades responses by one reward type, or by the one that a row's metadata names under "rm_type".

    What text decides is graded where it is asked. What needs mathematics, or the user's function, goes to worker
    processes, which start when they are needed or at `start()`. May be used from any thread and any event loop.

    Args:
        config: which grader, and what it may take; a text stands for `GraderConfig(rm_type=text)`.

    Raises:
        DataError: if a library that the grader needs is not installed, or the user's function cannot be imported or
            takes other arguments.

    Example:
        >>> with GraderPool("0.9*math + 0.1*format") as graders:
        ...     graders.grade_now("<think>1+1</think>Answer: 2", "2").value
        1.0
    """

    def __init__(self, config: GraderConfig | str) -> None:
        self._config = GraderConfig(rm_type=config) if isinstance(config, str) else config
        self._lock = threading.Lock()
        self._outcomes: Counter[GradeOutcome] = Counter()
        self._math_workers = WorkerPool(
            MATH, num_workers=self._config.rm_num_workers, timeout_s=self._config.rm_timeout_s
        )
        self._graders: dict[str, Grader] = {}
        self._by_type: dict[str, Grader] = {}
        self._default = self._grader_of(self._config.chosen_type)

    @property
    def outcomes(self) -> Mapping[GradeOutcome, int]:
        """How many gradings ended in which way so far."""
        with self._lock:
            return dict(self._outcomes)

    @property
    def asked_for(self) -> frozenset[str]:
        """Names of the graders that the reward type has, or a row named that was checked or graded so far."""
        with self._lock:
            return frozenset(self._graders)

    def check_label(self, label: str | None, metadata: Mapping[str, JsonValue] | None = None) -> None:
        """Checks that a response could be graded against this label. Compares no mathematics.

        Raises:
            DataError: if the grader needs a label and there is none, an empty one, or one that it cannot take, or the
                metadata name a grader that is unknown or lacks its settings.
        """
        submission = Submission(response="", label=label, metadata=metadata or {})
        self._chosen(submission).check(submission)

    def start(self) -> None:
        """Starts worker processes in the background, if this reward type can need them."""
        if any(term.name in NEEDS_MATH for term in self._config.terms):
            self._math_workers.start()
        for grader in self._graders.values():
            grader.start()

    async def grade(
        self,
        response: str,
        label: str | None,
        metadata: Mapping[str, JsonValue] | None = None,
        *,
        num_tokens: int | None = None,
    ) -> Grade:
        """The grade of a response of `num_tokens` tokens.

        Raises:
            DataError: as `check_label`, or if the grader looks at the length and num_tokens is None.
        """
        grading = self._grading(response, label, metadata, num_tokens)
        return self._counted(grading if isinstance(grading, Grade) else await asyncio.wrap_future(grading))

    async def grade_many(self, items: Sequence[tuple[str, str | None, Mapping[str, JsonValue] | None]]) -> list[Grade]:
        """Grades of (response, label, metadata), in their order."""
        return await asyncio.gather(*(self.grade(*item) for item in items))

    def grade_now(
        self,
        response: str,
        label: str | None,
        metadata: Mapping[str, JsonValue] | None = None,
        *,
        num_tokens: int | None = None,
    ) -> Grade:
        """The same as `grade`, for callers without an event loop; waits."""
        grading = self._grading(response, label, metadata, num_tokens)
        return self._counted(grading.result() if isinstance(grading, Future) else grading)

    def close(self) -> None:
        """Ends every process, thread and connection; what is being graded ends as a crash."""
        for grader in self._graders.values():
            grader.close()
        self._math_workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _grading(
        self, response: str, label: str | None, metadata: Mapping[str, JsonValue] | None, num_tokens: int | None
    ) -> Grading:
        submission = Submission(response=response, label=label, metadata=metadata or {}, num_tokens=num_tokens)
        return self._chosen(submission).grade(submission)

    def _counted(self, grade: Grade) -> Grade:
        with self._lock:
            self._outcomes[grade.outcome] += 1
        return grade

    def _chosen(self, submission: Submission) -> Grader:
        """The grader that the row names, or else the pool's own."""
        rm_type = submission.metadata.get("rm_type")
        if rm_type is None:  # parquet has a null there in rows that name none
            return self._default
        if not isinstance(rm_type, str):
            raise DataError(f"metadata: expected rm_type as text, got {rm_type!r}")
        return self._grader_of(rm_type)

    def _grader_of(self, rm_type: str) -> Grader:
        """The grader of a reward type, made when it is first asked for."""
        with self._lock:
            if rm_type not in self._by_type:
                parts = [Part(term, self._named(term)) for term in parse_rm_type(rm_type)]
                is_plain = len(parts) == 1 and parts[0].term.weight == 1
                self._by_type[rm_type] = parts[0].grader if is_plain else Mixture(parts)
            return self._by_type[rm_type]

    def _named(self, term: Term) -> Grader:
        if term.name not in self._graders:
            self._config.check_has(term)
            self._graders[term.name] = make_grader(term.name, self._config, self._math_workers)
        return self._graders[term.name]
