"""Settings of grading."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from rl_data.errors import DataError
from rl_data.grading.rm_type import Term, parse_rm_type

_DEFAULT_TYPE = "deepscaler"
_NEEDED: Mapping[str, str] = {"custom": "custom_rm_path", "overlong": "overlong_buffer_len", "remote": "rm_url"}
"""Grader -> the field without which it cannot grade, and that nobody else reads."""
MAX_TIMEOUT_S = 1_000_000
"""Eleven days; the system's timers count in milliseconds and hold little more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraderConfig:
    """Which grader, and what it may take.

    Raises:
        DataError: naming the field, if a value makes no sense or one is missing.
    """

    rm_type: str | None = field(
        default=None,
        metadata={
            "help": "grader of a response, or a weighted sum of several, as 0.9*math+0.1*format: boxed, custom, dapo, "
            "deepscaler, format, gsm8k, math, multiple_choice, overlong, remote; a row's metadata may name another "
            "under rm_type; default: custom or remote where a path or an address is given, else deepscaler"
        },
    )
    rm_num_workers: int = field(
        default=2, metadata={"help": "processes that compare answers as mathematics or run a custom grader"}
    )
    rm_timeout_s: float = field(
        default=10.0, metadata={"help": "seconds that one response may take in a process or at an address"}
    )
    custom_rm_path: str | None = field(
        default=None,
        metadata={
            "help": "grader `custom`: a function as package.module.function, called in a process of its own with "
            "(response, label, metadata); it returns a number, or a number and a reason"
        },
    )
    rm_url: str | None = field(
        default=None,
        metadata={
            "help": "grader `remote`: http address that a JSON object of response, label, metadata and num_tokens is "
            "posted to; it answers a number or an object with value and reason"
        },
    )
    rm_max_concurrency: int = field(default=64, metadata={"help": "requests to --rm-url at the same time"})
    rm_max_retries: int = field(
        default=3, metadata={"help": "times a request to --rm-url is made again, within its time"}
    )
    overlong_buffer_len: int | None = field(
        default=None,
        metadata={"help": "grader `overlong`: tokens before the longest response over which the penalty rises to 1"},
    )
    rollout_max_response_len: int = field(default=1024, metadata={"help": "new tokens of a sample at most"})

    def __post_init__(self) -> None:
        checks = (
            ("rm_num_workers", self.rm_num_workers, self.rm_num_workers >= 1, "at least 1"),
            (
                "rm_timeout_s",
                self.rm_timeout_s,
                0 < self.rm_timeout_s <= MAX_TIMEOUT_S,
                f"a number above 0 and at most {MAX_TIMEOUT_S}",
            ),
            ("rm_max_concurrency", self.rm_max_concurrency, self.rm_max_concurrency >= 1, "at least 1"),
            ("rm_max_retries", self.rm_max_retries, self.rm_max_retries >= 0, "at least 0"),
        )
        for name, value, is_valid, expected in checks:
            if not is_valid:
                raise DataError(f"{name} {value}: expected {expected}")
        if self.rm_url is not None:
            _check_address(self.rm_url)
        if self.overlong_buffer_len is not None:
            longest = self.rollout_max_response_len
            if not 0 < self.overlong_buffer_len <= longest:
                raise DataError(
                    f"overlong_buffer_len {self.overlong_buffer_len}: expected at least 1 and at most "
                    f"rollout_max_response_len {longest}"
                )
        for term in self.terms:
            self.check_has(term)

    @property
    def chosen_type(self) -> str:
        """The reward type of rows that name none."""
        if self.rm_type is not None:
            return self.rm_type
        if self.custom_rm_path is not None:
            return "custom"
        return "remote" if self.rm_url is not None else _DEFAULT_TYPE

    @property
    def terms(self) -> tuple[Term, ...]:
        """The graders of `chosen_type` with their weights."""
        return parse_rm_type(self.chosen_type)

    def check_has(self, term: Term) -> None:
        """Checks that there is what the term's grader needs.

        Raises:
            DataError: naming the field that is missing.
        """
        if term.name in _NEEDED and getattr(self, _NEEDED[term.name]) is None:
            raise DataError(f"rm_type {term.name}: {_NEEDED[term.name]} is missing")

    def without_effect(self, asked_for: Set[str]) -> dict[str, str]:
        """Fields that are given for a grader that is not among those asked for -> its name."""
        return {
            needed: grader
            for grader, needed in _NEEDED.items()
            if grader not in asked_for and getattr(self, needed) is not None
        }


def _check_address(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise DataError(f"rm_url {url}: expected an address that begins with http:// or https://")
    try:
        address = urlsplit(url)
        host, port = address.hostname, address.port
    except ValueError as error:  # a port above 65535, half an IPv6 address
        raise DataError(f"rm_url {url}: expected an address as http://HOST:PORT/PATH: {error}") from error
    if not host or port == 0:
        missing = "port" if host else "host"
        raise DataError(f"rm_url {url}: expected an address as http://HOST:PORT/PATH, got no {missing}")
