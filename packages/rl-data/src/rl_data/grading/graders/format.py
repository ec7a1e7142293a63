"""Whether a response thinks first and answers then."""

from rl_data.grading.grade import Grade, Submission


class FormatGrader:
    """1.0 for thinking, one `</think>`, and an answer after it; else 0.0.

    `<think>` may stand at the beginning, or nowhere: chat templates may have written it into the prompt.
    """

    def check(self, submission: Submission) -> None:
        """Any label will do."""

    def grade(self, submission: Submission) -> Grade:
        """1.0 or 0.0, and what is wrong."""
        problem = _problem(submission.response)
        return Grade(value=0.0 if problem else 1.0, reason=problem or "thinking and an answer")

    def start(self) -> None:
        """Nothing has to start."""

    def close(self) -> None:
        """Nothing is held."""


def _problem(response: str) -> str:
    text = response.lstrip().removeprefix("<think>")
    if "<think>" in text:
        return "<think> stands elsewhere than at the beginning"
    thinking, end, answer = text.partition("</think>")
    if not end:
        return "no </think>"
    if "</think>" in answer:
        return "more than one </think>"
    if not thinking.strip():
        return "no thinking"
    return "" if answer.strip() else "no answer after </think>"
