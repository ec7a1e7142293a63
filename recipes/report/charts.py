"""The curves of a run, as figures in plotly's JSON form."""

import math
from collections.abc import Callable, Mapping, Sequence

from recipes.report.metrics import MetricsRecord, Phase, finite
from rl_data.json import JsonValue

type Figure = dict[str, JsonValue]

_BLUE = "#2f6690"
# The parts of a step that recipes time have a colour of their own, the same in every figure.
_PART_COLOURS = {
    "generate": "#2f6690",
    "grade": "#b5838d",
    "train": "#d98e3f",
    "release": "#b8c4a9",
    "resume": "#98b08f",
    "publish": "#7a9e7e",
    "data": "#81a4cd",
    "other": "#c9c9c4",
}
_MORE_COLOURS = ("#8d7b68", "#6b705c", "#9a8c98", "#a5a58d")
_LOGPROB_TITLE = "Log-probability difference, rollout and training"
_MAX_MARKED_POINTS = 20
_WHOLE_STEP = "step"
_REST = "other"
_NO_PARTS = (_WHOLE_STEP, _REST, "switch")


def make_figures(records: Mapping[Phase, Sequence[MetricsRecord]]) -> list[Figure]:
    """The figures for which there is data, in the order of the page."""
    sft, grpo, evaluations = records["sft"], records["grpo"], records["eval"]
    unit = (0.0, 1.0)
    figures = [
        _curve("reward", "Mean reward of a step", grpo, lambda r: r.reward_mean, bounds=unit),
        _curve("accuracy", "Accuracy on held-out problems", evaluations, lambda r: r.accuracy, bounds=unit),
        _curve("logprob-diff", _LOGPROB_TITLE, grpo, lambda r: r.logprob_abs_diff, log=True),
        _curve("length", "Mean response length, tokens", grpo, lambda r: r.response_length_mean),
        _curve("loss-sft", "Loss, SFT", sft, lambda r: r.loss),
        _curve("loss-grpo", "Loss, GRPO", grpo, lambda r: r.loss),
        _curve(
            "truncated", "Share of responses cut at the token limit", grpo, lambda r: r.truncated_share, bounds=unit
        ),
        _curve("grad-norm", "Gradient norm, GRPO", grpo, lambda r: r.grad_norm),
        _time("time-grpo", "Seconds of a step, GRPO", grpo),
        _time("time-sft", "Seconds of a step, SFT", sft),
    ]
    return [figure for figure in figures if figure is not None]


def _curve(
    name: str,
    title: str,
    records: Sequence[MetricsRecord],
    value_of: Callable[[MetricsRecord], float | None],
    *,
    bounds: tuple[float, float] | None = None,
    log: bool = False,
) -> Figure | None:
    """A line over the steps for each data set; gaps where a value is not finite, or not positive on a log axis.

    Args:
        bounds: the axis shows at least these.
    """
    points: dict[str, list[tuple[int, float | None]]] = {}
    for record in records:
        value = finite(value_of(record))
        is_drawn = value is not None and (value > 0 or not log)
        points.setdefault(record.data_set, []).append((record.step, value if is_drawn else None))
    present = [value for line in points.values() for _, value in line if value is not None]
    if not present:
        return None
    axis: Figure = {"rangemode": "tozero"}
    if log:
        axis = {"type": "log", "exponentformat": "power", "dtick": 1, "range": _decades(present)}
    elif bounds is not None:
        axis["range"] = _around(bounds, present)
    traces: list[JsonValue] = [
        _line(data_set, line, colour=_BLUE if index == 0 else _MORE_COLOURS[index % len(_MORE_COLOURS)])
        for index, (data_set, line) in enumerate(points.items())
    ]
    layout: Figure = {"yaxis": axis, "showlegend": len(traces) > 1}
    return {"name": name, "title": title, "traces": traces, "layout": layout}


def _line(data_set: str, points: Sequence[tuple[int, float | None]], *, colour: str) -> Figure:
    return {
        "type": "scatter",
        "name": data_set,
        "mode": "lines+markers" if len(points) <= _MAX_MARKED_POINTS else "lines",
        "x": [step for step, _ in points],
        "y": [value for _, value in points],
        "line": {"color": colour, "width": 2},
        "marker": {"size": 7},
        "hovertemplate": "step %{x}: %{y:.4g}" + ("" if data_set else "<extra></extra>"),
    }


def _around(bounds: tuple[float, float], values: Sequence[float]) -> list[JsonValue]:
    """The bounds, wider where values leave them, with a margin."""
    low, high = min(bounds[0], *values), max(bounds[1], *values)
    margin = 0.03 * (high - low)
    return [low - margin, high + margin]


def _decades(values: Sequence[float]) -> list[JsonValue]:
    """Whole powers of ten around the values, at least two apart, so that the axis has numbers to read."""
    exponents = [math.log10(value) for value in values]
    low, high = math.floor(min(exponents)), math.ceil(max(exponents))
    return [min(low, high - 2), high + 0.05]


def _time(name: str, title: str, records: Sequence[MetricsRecord]) -> Figure | None:
    """Stacked bars of the parts of each step, with what no part accounts for on top."""
    timed = [record for record in records if record.seconds]
    if not timed:
        return None
    parts = list(dict.fromkeys(part for record in timed for part in record.seconds if part not in _NO_PARTS))
    heights = {part: [finite(record.seconds.get(part)) or 0.0 for record in timed] for part in parts}
    if any(_WHOLE_STEP in record.seconds for record in timed):
        heights[_REST] = [max(0.0, record.seconds.get(_WHOLE_STEP, 0.0) - _sum_of_parts(record)) for record in timed]
    steps: list[JsonValue] = [record.step for record in timed]
    traces: list[JsonValue] = [
        {
            "type": "bar",
            "name": part,
            "x": steps,
            "y": list[JsonValue](height),
            "marker": {"color": _PART_COLOURS.get(part, _MORE_COLOURS[index % len(_MORE_COLOURS)])},
            "hovertemplate": "step %{x}: %{y:.2f} s",
        }
        for index, (part, height) in enumerate(heights.items())
    ]
    layout: Figure = {"barmode": "stack", "bargap": 0.15, "showlegend": True, "yaxis": {"rangemode": "tozero"}}
    return {"name": name, "title": title, "traces": traces, "layout": layout}


def _sum_of_parts(record: MetricsRecord) -> float:
    return sum(finite(seconds) or 0.0 for part, seconds in record.seconds.items() if part not in _NO_PARTS)
