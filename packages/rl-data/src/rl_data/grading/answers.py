"""Finding the answer in a response, and comparing short answers as text and as numbers.

Nothing here parses mathematics. Finding takes time linear in the response, whatever a model wrote; comparing is for
answers of at most MAX_ANSWER_CHARS.
"""

import re
from fractions import Fraction

MAX_ANSWER_CHARS = 4096
"""A longer answer is no answer to a question with a reference, and costs more to compare than it is worth."""

_ANSWER_LINE = re.compile(r"answer[ \t*]*:[ \t]*([^\n]*)", re.IGNORECASE)
_BRACES = re.compile(
    r"(?P<box>\\(?:boxed|fbox)[ ]*\{)|\\(?:boxed|fbox)[ ]+(?P<bare>[^\s{}$]+)|\\[{}]|[{}]"  # an escaped brace is text
)
_BOX = re.compile(r"\\(?:boxed|fbox)")
_IN_DOLLARS = re.compile(r"(?<![$\\])\$([^$\n]+)\$(?!\$)")
_SPECIAL_TOKEN = re.compile(r"<\|\w+\|>")  # engines may leave the token that ended the response in its text
_NUMBER = r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]+)?|[-+]?\.[0-9]+"
_WHOLE_NUMBER = re.compile(rf"(?:{_NUMBER})")
_PLAIN_FRACTION = re.compile(r"([-+]?[0-9]+)/([0-9]+)")
_LATEX_FRACTION = re.compile(r"([-+]?)\\frac\{([-+]?[0-9]+)\}\{([0-9]+)\}")
_MAX_DIGITS = 60

_WRAPPERS = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox|boxed|fbox)\{([^{}]*)\}")
_DROPPED = re.compile(r"\\left|\\right|\\[!,;: ]|\\quad|\\[()\[\]]|\^\{?\\circ\}?|\\degree|\\?%|\\?\$|[°*]")
_SHORT_FRACTION = re.compile(r"\\[dt]?frac(?=[^{\s])([0-9a-z])([0-9a-z])")
_SHORT_ROOT = re.compile(r"\\sqrt([0-9a-z])")
_UNITS = re.compile(
    r"(?<=[0-9}])[ ]*(?:square|cubic|sq\.?|cu\.?)?[ ]*(?:dollars?|cents?|points?|units?|degrees?|radians?|percent|"
    r"inch(?:es)?|feet|foot|ft|yards?|miles?|mi|cm|mm|km|meters?|metres?|m|grams?|g|kg|lbs?|pounds?|ounces?|oz|lit(?:er|re)s?|ml|"
    r"seconds?|s|minutes?|min|hours?|h|days?|weeks?|months?|years?|mph|people|times)(?:\^\{?[23]\}?)?[ .]*$",
    re.IGNORECASE,
)


def last_boxed(text: str) -> tuple[int, str] | None:
    """Where the last \\boxed{...} with a closing brace begins, and what is in it; None if there is none.

    Of nested boxes the inner one counts. `\\boxed 5`, without braces, holds what stands up to the next blank.
    """
    found: tuple[int, str] | None = None
    open_braces: list[tuple[int, int] | None] = []  # where a box and its content begin; None for other braces
    first = _BOX.search(text)
    for match in _BRACES.finditer(text, first.start()) if first else ():
        if match["box"]:
            open_braces.append((match.start(), match.end()))
        elif match["bare"]:
            found = (match.start(), match["bare"])
        elif match[0] == "{":
            open_braces.append(None)
        elif match[0] == "}" and open_braces:
            box = open_braces.pop()
            if box is not None and (found is None or found[0] < box[0]):
                found = (box[0], text[box[1] : match.start()])
    return found


def last_answer_line(text: str) -> tuple[int, str] | None:
    """Where the last "Answer: ..." begins, and the rest of its line; None if there is none."""
    found = list(_ANSWER_LINE.finditer(text))
    return (found[-1].start(), _SPECIAL_TOKEN.sub("", found[-1][1]).strip()) if found else None


def final_answer(text: str) -> str | None:
    """The content of the last box or the rest of the last "Answer:" line, whichever comes later."""
    found = [answer for answer in (last_boxed(text), last_answer_line(text)) if answer is not None]
    if not found:
        return None
    answer = max(found)[1]
    boxed = last_boxed(answer)
    return boxed[1] if boxed else answer


def stated_plainly(text: str) -> str:
    """What stands in the last pair of single dollar signs, or else the whole text."""
    found = _IN_DOLLARS.findall(text)
    return found[-1] if found else text


def normalise(answer: str) -> str:
    """One spelling for answers that mean the same: no dollar signs, units, spacing, thousands separators or `x =`."""
    text = " ".join(_SPECIAL_TOKEN.sub("", answer).split()).rsplit("=", 1)[-1]
    text = _DROPPED.sub("", text).strip().rstrip(".").strip()
    previous = None
    while previous != text:
        previous, text = text, _WRAPPERS.sub(lambda match: match[1], text, count=64)
    text = _UNITS.sub("", text.strip())
    text = text.replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    text = _SHORT_ROOT.sub(r"\\sqrt{\1}", text)
    text = "".join(text.split())
    return text.replace(",", "") if _WHOLE_NUMBER.fullmatch(text) else text


def as_number(normalised: str) -> Fraction | None:
    """The value of an integer, a decimal or a fraction of integers; None for everything else."""
    if len(normalised) > _MAX_DIGITS:
        return None
    if _WHOLE_NUMBER.fullmatch(normalised):
        return Fraction(normalised.replace(",", ""))
    fraction = _PLAIN_FRACTION.fullmatch(normalised)
    if fraction:
        sign, numerator, denominator = "", fraction[1], fraction[2]
    else:
        fraction = _LATEX_FRACTION.fullmatch(normalised)
        if not fraction:
            return None
        sign, numerator, denominator = fraction[1], fraction[2], fraction[3]
    if int(denominator) == 0:
        return None
    value = Fraction(int(numerator), int(denominator))
    return -value if sign == "-" else value


def compare(answer: str, label: str) -> bool | None:
    """Whether the answer is the reference answer; None where that takes mathematics to say.

    A reference that is a number is decided here for every answer in plain words and digits: it is right if the only
    number in it is that number. A sum that was not worked out, as 7+12 for 19, is no answer.
    """
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    normal_answer, normal_label = normalise(answer), normalise(label)
    if normal_answer == normal_label:
        return bool(normal_label)
    if not normal_answer:
        return False
    expected, got = as_number(normal_label), as_number(normal_answer)
    if expected is None:
        return None
    if got is not None:
        return got == expected
    if re.search(r"[\\^/{}()\[\]_]", normal_answer):
        return None
    words = re.sub(r"[$*°%]", " ", answer.rsplit("=", 1)[-1])
    if re.search(r"[0-9]\s*[-+*]\s*[0-9]", words):
        return False
    numbers = re.findall(rf"(?<![\w.])(?:{_NUMBER})(?![\w])", words)
    return len(numbers) == 1 and as_number(normalise(numbers[0])) == expected
