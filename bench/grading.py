"""Graders on real reference answers and on hostile ones: how many are right, and how many a second.

`python -m bench.grading --data math_500_first_250.jsonl`; rows have `answer`. Everything runs on the processor.

- Every reference answer against itself in five written forms, and against another row's answer.
- Hostile answers among good ones, with a time limit each: the pool lives on and the good ones are graded.
- Gradings a second: dapo on long responses; math on groups of 8 responses that share 4 different answers.
"""

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.record import add_out_flag, measured, report
from rl_data import Grade, GradeOutcome, GraderConfig, GraderPool

FORMS: dict[str, Callable[[str], str]] = {
    "plain": lambda answer: answer,
    "boxed": lambda answer: f"So it is $\\boxed{{{answer}}}$.",
    "units": lambda answer: f"Answer: ${answer}$ units",
    "answer": lambda answer: f"First one thing, then another.\nAnswer: {answer}",
    "sentence": lambda answer: f"Therefore the result is ${answer}$, as was to be shown.",
}
type Item = tuple[str, str, None]
_GROUP_SIZE = 8
_PROGRESS_EVERY = 50
"""Hostile answers to a line on standard error: each may take its whole time limit."""


def main() -> None:
    """Prints the records."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="JSON lines with `answer`")
    parser.add_argument("--num-hostile", type=int, default=1000)
    parser.add_argument("--hostile-timeout-s", type=float, default=2.0)
    add_out_flag(parser)
    arguments = parser.parse_args()
    answers = [json.loads(line)["answer"] for line in arguments.data.read_text().splitlines()]
    details: dict[str, Any] = {}
    with GraderPool("math") as graders:
        _start_all(graders)
        details["forms"] = forms = _by_form(graders, answers)
        details["gradings_per_s"] = rates = {"dapo": _dapo_rate(), "math": _math_rate(graders, answers)}
    details["hostile"] = hostile = _hostile(answers, arguments.num_hostile, arguments.hostile_timeout_s)
    records = [
        measured("grading_right_share", min(form["right"] for form in forms.values()), ""),
        measured("grading_wrong_share", min(form["wrong"] for form in forms.values()), ""),
        measured("grading_dapo_per_s", rates["dapo"], "1/s"),
        measured("grading_math_per_s", rates["math"], "1/s"),
        measured("grading_hostile_longest_s", hostile["longest_s"], "s"),
        measured("grading_hostile_good_share", hostile["good_share"], ""),
    ]
    report(records, details, arguments.out)


def _grade(graders: GraderPool, items: Sequence[Item]) -> list[Grade]:
    return asyncio.run(graders.grade_many(items))


def _start_all(graders: GraderPool) -> None:
    """Starts every worker, which is no part of any time: more comparisons than there are workers."""
    _grade(graders, [(f"\\boxed{{\\sqrt{{{number}}}}}", "0", None) for number in range(20)])


def _by_form(graders: GraderPool, answers: Sequence[str]) -> dict[str, dict[str, float]]:
    """Shares of the reference answers that grade as right, and of other rows' answers that grade as wrong."""
    others = [*answers[1:], answers[0]]
    shares: dict[str, dict[str, float]] = {}
    for name, form in FORMS.items():
        right = _grade(graders, [(form(answer), answer, None) for answer in answers])
        pairs = [(given, label) for given, label in zip(others, answers, strict=True) if given != label]
        wrong = _grade(graders, [(form(given), label, None) for given, label in pairs])
        shares[name] = {
            "right": sum(grade.value == 1.0 for grade in right) / len(right),
            "wrong": sum(grade.value == 0.0 for grade in wrong) / len(wrong),
        }
    return shares


def _dapo_rate() -> float:
    """Gradings a second of responses of 4,000 characters."""
    items: list[Item] = [(f"{'Let us think. ' * 285}\nAnswer: {number}", "1234", None) for number in range(20_000)]
    with GraderPool("dapo") as graders:
        start = time.perf_counter()
        _grade(graders, items)
        return len(items) / (time.perf_counter() - start)


def _math_rate(graders: GraderPool, answers: Sequence[str]) -> float:
    """Gradings a second over groups: half of the responses right, the others with three other answers among them.

    No answer was compared before: each is written as one more than it is.
    """
    items: list[Item] = []
    for number, label in enumerate(answers):
        wrong = [f"{answers[(number + shift) % len(answers)]}+1" for shift in (1, 2, 3)]
        given = [*[label] * (_GROUP_SIZE // 2), *itertools.islice(itertools.cycle(wrong), _GROUP_SIZE // 2)]
        forms = itertools.islice(itertools.cycle(FORMS.values()), number, number + _GROUP_SIZE)
        items += [(form(answer), label, None) for form, answer in zip(forms, given, strict=True)]
    start = time.perf_counter()
    _grade(graders, items)
    return len(items) / (time.perf_counter() - start)


def _hostile(answers: Sequence[str], num_hostile: int, timeout_s: float) -> dict[str, Any]:
    """Hostile answers on two threads, a good one after each: outcomes, the longest, and how many good ones were wrong.

    The longest is from the question to the grade: the time limit, and what asking and stopping take.
    """
    with GraderPool(GraderConfig(rm_type="math", rm_timeout_s=timeout_s)) as graders, ThreadPoolExecutor(2) as threads:
        _start_all(graders)

        def attack(number: int) -> tuple[Grade, float, Grade]:
            draw = random.Random(number)
            label = draw.choice(answers)
            start = time.perf_counter()
            grade = graders.grade_now(hostile_response(number, draw), label)
            seconds = time.perf_counter() - start
            return grade, seconds, graders.grade_now(f"Answer: $\\sqrt{{{(number + 2) ** 2}}}$", str(number + 2))

        done: list[tuple[Grade, float, Grade]] = []
        for one in threads.map(attack, range(num_hostile)):
            done.append(one)
            if len(done) % _PROGRESS_EVERY == 0 or len(done) == num_hostile:
                sys.stderr.write(f"{len(done)} of {num_hostile} hostile answers\n")
    outcomes = Counter(grade.outcome for grade, _, _ in done)
    return {
        "num": num_hostile,
        "outcomes": {outcome.value: outcomes[outcome] for outcome in GradeOutcome},
        "timeout_s": timeout_s,
        "longest_s": max(seconds for _, seconds, _ in done),
        "good_share": sum(good.value == 1.0 for _, _, good in done) / num_hostile,
        "num_hostile_right": sum(grade.value == 1.0 for grade, _, _ in done),
        "num_good_wrong": sum(good.value == 0.0 for _, _, good in done),
        "num_good_too_slow": sum(good.value is None for _, _, good in done),
    }


def hostile_response(number: int, draw: random.Random) -> str:
    """One of several kinds of responses that are made to break a grader, different for every number."""
    depth = draw.randrange(100, 5000)
    power = draw.randrange(5, 12)
    kinds = (
        lambda: "\\boxed{" + "(" * depth + "1" + ")" * depth + "}",
        lambda: "\\boxed{" + "\\frac{1}{" * (depth // 10) + "2" + "}" * (depth // 10) + "}",
        lambda: "\\boxed{" + "^".join(f"{{{power}" for _ in range(power)) + "}" * power + "}",
        lambda: f"Answer: ${depth}!{'!' * (depth % 5)} + x$",
        lambda: f"Answer: $\\int \\frac{{\\sin(x^{{x^{{x}}}})}}{{\\ln(x)^{{x}}}} dx + {number}$",
        lambda: f"Answer: $\\sum_{{k=1}}^{{10^{{{depth}}}}} \\frac{{\\sin(k^{{k}})}}{{k^{{k!}}}}$",
        lambda: "{" * 1_000_000,
        lambda: "Answer: " + "\\boxed{" * depth,
        lambda: f"Answer: __import__('os').system('echo {number} > hacked.txt')",
        lambda: "Answer: $" + "+".join(f"x^{{{power}{one}}}" for one in range(depth // 10)) + "$",
        lambda: "Answer: $" + "(x+1)" * (depth // 20) + f"^{{{depth}}}$",
        lambda: "Answer: " + "".join(chr(draw.randrange(1, 0x2FFF)) for _ in range(depth)),
    )
    return kinds[number % len(kinds)]()


if __name__ == "__main__":
    main()
