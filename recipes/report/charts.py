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
    "publish": "#7a9e7e",
    "data": "#81a4cd",
    "other": "#c9c9c4",
}
_MORE_COLOURS = ("#8d7b68", "#6b705c", "#9a8c98", "#a5a58d")
_LOGPROB_TITLE = "Log-probability difference, rollout and training"
_MAX_MARKED_POINTS = 20
_WHOLE_STEP = "step"
_REST = "other"
_NO_PARTS = (_WHOLE_STEP, _REST)


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
    """One line over the steps; gaps where a value is not finite, and where it is not positive on a log axis.

    Args:
        bounds: the axis shows at least these.
    """
    values = [finite(value_of(record)) for record in records]
    if log:
        values = [value if value is not None and value > 0 else None for value in values]
    if all(value is None for value in values):
        return None
    trace: Figure = {
        "type": "scatter",
        "mode": "lines+markers" if len(values) <= _MAX_MARKED_POINTS else "lines",
        "x": [record.step for record in records],
        "y": list[JsonValue](values),
        "line": {"color": _BLUE, "width": 2},
        "marker": {"size": 7},
        "hovertemplate": "step %{x}: %{y:.4g}<extra></extra>",
    }
    axis: Figure = {"rangemode": "tozero"}
    if log:
        axis = {"type": "log", "exponentformat": "power", "dtick": 1, "range": _decades(values)}
    elif bounds is not None:
        axis["range"] = _around(bounds, values)
    return {"name": name, "title": title, "traces": [trace], "layout": {"yaxis": axis}}


def _around(bounds: tuple[float, float], values: Sequence[float | None]) -> list[JsonValue]:
    """The bounds, wider where values leave them, with a margin."""
    present = [value for value in values if value is not None]
    low, high = min(bounds[0], *present), max(bounds[1], *present)
    margin = 0.03 * (high - low)
    return [low - margin, high + margin]


def _decades(values: Sequence[float | None]) -> list[JsonValue]:
    """Whole powers of ten around the values, at least two apart, so that the axis has numbers to read."""
    exponents = [math.log10(value) for value in values if value is not None]
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
