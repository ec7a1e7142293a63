import time
from fractions import Fraction

import pytest

from rl_data import DataError, Grade
from rl_data.grading.answers import as_number, compare, final_answer, last_answer_line, last_boxed, normalise
from rl_data.grading.graders.deepscaler import grade_deepscaler
from rl_data.grading.graders.make import ANSWER_FUNCTIONS
from rl_data.grading.graders.multiple_choice import grade_multiple_choice
from rl_data.grading.workers.messages import Comparison


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("1,234,567", "1234567"),
        ("x = 42", "42"),
        ("$42$.", "42"),
        ("\\$18", "18"),
        ("18 dollars", "18"),
        ("5 cm^2", "5"),
        ("50\\%", "50"),
        ("90^\\circ", "90"),
        ("\\text{Evelyn}", "Evelyn"),
        ("\\boxed{\\text{7}}", "7"),
        ("\\dfrac12", "\\frac{1}{2}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
        ("\\sqrt3", "\\sqrt{3}"),
        ("1,2", "1,2"),
        ("", ""),
    ],
)
def test_answers_that_mean_the_same_are_spelt_the_same(text: str, normal: str):
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-3", -3),
        ("+4", 4),
        ("2.50", Fraction(5, 2)),
        (".5", Fraction(1, 2)),
        ("6/4", Fraction(3, 2)),
        ("-\\frac{1}{3}", Fraction(-1, 3)),
        ("1/0", None),
        ("1e9", None),
        ("9" * 100, None),
        ("\u0663", None),  # a digit of another script
    ],
)
def test_only_plain_numbers_have_a_value(text: str, value: object):
    assert as_number(text) == value


def test_the_last_whole_box_counts():
    assert last_boxed("\\boxed{1} and \\boxed{\\frac{1}{2}}!")[1] == "\\frac{1}{2}"
    assert last_boxed("\\boxed{\\boxed{5}}")[1] == "5"
    assert last_boxed("\\boxed{7} then \\boxed{8")[1] == "7"
    assert last_boxed("\\boxed 9 is it")[1] == "9"
    assert last_boxed("\\boxed{\\{1, 2\\}}")[1] == "\\{1, 2\\}"
    assert last_boxed("no box") is None


def test_the_last_answer_line_counts_and_the_later_of_line_and_box():
    assert last_answer_line("Answer: 1\nthe answer : 2\nrest")[1] == "2"
    assert last_answer_line("**Answer:** 3")[1] == "** 3"
    assert final_answer("\\boxed{1}\nAnswer: 2") == "2"
    assert final_answer("Answer: 1\n\\boxed{2}") == "2"
    assert final_answer("Answer: $\\boxed{3}$") == "3"
    assert final_answer("nothing") is None


@pytest.mark.parametrize(
    ("answer", "label", "is_right"),
    [
        ("19", "19", True),
        ("** 19", "19", True),
        ("19.0", "19", True),
        ("0.5", "1/2", True),
        ("19 apples", "19", True),
        ("$19", "19", True),
        ("x is 19.", "19", True),
        ("7 + 12 = 19", "19", True),
        ("20", "19", False),
        ("-19", "19", False),
        ("7+12", "19", False),  # a sum that was not worked out
        ("19 or 20", "19", False),
        ("19x", "19", False),
        ("nineteen", "19", False),
        ("", "19", False),
        ("1" * 5000, "19", False),
        ("\\frac{38}{2}", "19", True),
        ("\\sqrt{361}", "19", None),
        ("2x", "x+x", None),
    ],
)
def test_numbers_are_compared_without_mathematics(answer: str, label: str, is_right: bool | None):
    assert compare(answer, label) is is_right


@pytest.mark.parametrize(
    ("response", "label", "value"),
    [
        ("\\boxed{42}", "42", 1.0),
        ("Answer: 42", "42", 1.0),
        ("Answer: 41", "42", -1.0),
        ("no answer", "42", -1.0),
        ("Answer: 41\nAnswer: 42", "42", 1.0),
        ("Answer: 42\nAnswer: 41", "42", -1.0),
        ("Answer: 42" + " " * 300, "42", -1.0),  # beyond the last 300 characters
        ("Answer: 1,234,567", "1234567", 1.0),
        ("Answer: x = 42", "42", 1.0),
        ("Answer: 42<|im_end|>", "42", 1.0),
        ("Answer: $\\frac12$", "\\frac{1}{2}", 1.0),
    ],
)
def test_dapo_grades_the_end_with_plus_and_minus_one(response: str, label: str, value: float):
    assert ANSWER_FUNCTIONS["dapo"](response, label).value == value


@pytest.mark.parametrize(
    ("rm_type", "response", "label", "value"),
    [
        ("boxed", "\\boxed{4}", "4", 1.0),
        ("boxed", "Answer: 4", "4", 0.0),
        ("boxed", "\\boxed{\\sqrt{16}}", "4", 0.0),
        ("gsm8k", "48/2=24 #### 24", "24", 1.0),
        ("gsm8k", "Answer: 24", "so #### 24", 1.0),
        ("gsm8k", "24", "24", 0.0),
        ("deepscaler", "<think>Answer: 5</think>Answer: 4", "4", 1.0),
        ("deepscaler", "hm Answer: 4</think>It is 4", "4", 0.0),
        ("deepscaler", "<think>Answer: 4", "4", 0.0),
        ("deepscaler", "Answer: 4", "4", 1.0),
        ("math", "\\boxed{4}", "4", 1.0),
        ("gsm8k", "#### 24<|im_end|>", "24", 1.0),
    ],
)
def test_graders_that_text_decides(rm_type: str, response: str, label: str, value: float):
    assert ANSWER_FUNCTIONS[rm_type](response, label).value == value


def test_every_grader_says_what_it_found():
    for rm_type, grade_answer in ANSWER_FUNCTIONS.items():
        is_choice = rm_type == "multiple_choice"
        grade = grade_answer(f"Answer: \\boxed{{{'C' if is_choice else 5}}}", "D" if is_choice else "4")
        assert isinstance(grade, Grade)
        assert ("C" if is_choice else "5") in grade.reason, rm_type


def test_mathematics_is_left_to_a_worker():
    assert grade_deepscaler("Answer: \\sqrt{16}", "4") == Comparison(answer="\\sqrt{16}", label="4")


@pytest.mark.parametrize(
    ("response", "label", "value"),
    [
        ("B", "B", 1.0),
        ("(B) because it floats", "B", 1.0),
        ("Answer: B", "B", 1.0),
        ("**Answer:** (B)", "b", 1.0),
        ("The answer is B.", "(B)", 1.0),
        ("the correct answer is option C", "C", 1.0),
        ("So it is \\boxed{\\text{D}}.", "D", 1.0),
        ("\\boxed{D) 12 m}", "D", 1.0),
        ("Answer: A\nNo. Answer: B", "B", 1.0),
        ("<think>Answer: A</think>Answer: B", "B", 1.0),
        ("Answer: A", "B", 0.0),
        ("A cat is not a dog", "A", 0.0),
        ("A", "A", 1.0),
        ("A: it floats", "A", 1.0),
        ("I think it is a tie", "A", 0.0),
        ("It could be A or B", "A", 0.0),
        ("Answer: Apple", "A", 0.0),
        ("", "A", 0.0),
    ],
)
def test_the_letter_that_is_stated_last_is_the_choice(response: str, label: str, value: float):
    assert grade_multiple_choice(response, label).value == value


@pytest.mark.parametrize(
    ("rm_type", "response", "label"),
    [
        ("multiple_choice", "The answer is" + " *" * 500_000, "B"),
        ("multiple_choice", "answer:" + " :" * 500_000 + "option", "B"),
        ("gsm8k", "#### " + "\\text{" * 100_000 + "5" + "}" * 100_000, "5"),
    ],
)
def test_what_a_model_repeats_without_end_takes_no_time(rm_type: str, response: str, label: str):
    started = time.monotonic()
    grade = ANSWER_FUNCTIONS[rm_type](response, label)
    assert isinstance(grade, Grade)
    assert grade.value == 0.0
    assert time.monotonic() - started < 5.0  # linear: milliseconds; quadratic: an hour


def test_a_choice_needs_a_letter_as_label():
    with pytest.raises(DataError, match="multiple_choice: expected a label that is one letter, got '12'"):
        grade_multiple_choice("Answer: A", "12")
