"""Pictures of how lengths are spread: a histogram as lines of text, or as SVG, which any browser shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

_NUM_BINS = 30
_SHOWN_SHARE = 0.99
"""Bins reach to this quantile; the few longer ones share the last bin, or one outlier would flatten all others."""
_WIDTH, _HEIGHT, _MARGIN = 900, 420, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many lengths lie in each of some bins of equal width, the first of which begins at 0."""

    bin_width: int
    counts: tuple[int, ...]
    """Of the bins [0, bin_width), [bin_width, 2 * bin_width) and so on."""
    num_longer: int
    """How many lie beyond the last bin."""

    @property
    def end(self) -> int:
        """Where the last bin ends."""
        return self.bin_width * len(self.counts)


def histogram_of(lengths: Sequence[int]) -> Histogram:
    """A histogram of about 30 bins, whose width is 1, 2 or 5 times a power of ten."""
    values = np.array(lengths)
    reach = int(np.quantile(values, _SHOWN_SHARE, method="higher")) + 1
    width = next(size * 10**power for power in range(20) for size in (1, 2, 5) if size * 10**power * _NUM_BINS >= reach)
    num_bins = -(-reach // width)
    counts = np.bincount(np.minimum(values // width, num_bins), minlength=num_bins + 1)
    return Histogram(bin_width=width, counts=tuple(map(int, counts[:num_bins])), num_longer=int(counts[num_bins]))


def as_text(histogram: Histogram, *, width: int = 60) -> str:
    """A line for each bin, for a terminal."""
    most = max(*histogram.counts, histogram.num_longer, 1)
    names = [f"{number * histogram.bin_width}-" for number in range(len(histogram.counts))]
    names.append(f">={histogram.end}")
    lines = [
        f"{name:>10} {count:>9} {'#' * -(-count * width // most)}"
        for name, count in zip(names, (*histogram.counts, histogram.num_longer), strict=True)
    ]
    return "\n".join(lines if histogram.num_longer else lines[:-1])


def as_svg(histogram: Histogram, *, title: str, unit: str) -> str:
    """A picture of 900 x 420 points: a bar for each bin, and a paler one for all that are longer.

    Args:
        title: stands above it.
        unit: what lengths count, such as "tokens"; stands below it.
    """
    counts = (*histogram.counts, histogram.num_longer) if histogram.num_longer else histogram.counts
    most = max(*counts, 1)
    plot_height = _HEIGHT - 2 * _MARGIN
    step = (_WIDTH - 2 * _MARGIN) / len(counts)
    parts: list[str] = []
    for number, count in enumerate(counts):
        height = plot_height * count / most
        is_rest = number == len(histogram.counts)
        name = f"{histogram.end} and more" if is_rest else _range(number, histogram.bin_width)
        parts.append(
            f'<rect x="{_MARGIN + number * step + 0.5:.1f}" y="{_HEIGHT - _MARGIN - height:.1f}" '
            f'width="{step - 1:.1f}" height="{height:.1f}" fill="{"#b8c4d6" if is_rest else "#4269a5"}">'
            f"<title>{name} {escape(unit)}: {count:,} rows</title></rect>"
        )
    every = max(1, -(-len(counts) // 10))
    for number in range(0, len(histogram.counts) + 1, every):
        parts.append(_text(_MARGIN + number * step, _HEIGHT - _MARGIN + 18, f"{number * histogram.bin_width:,}"))
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _HEIGHT - _MARGIN - plot_height * share
        parts.append(f'<path d="M{_MARGIN} {y:.1f}H{_WIDTH - _MARGIN}" stroke="#d5d9e0" stroke-width="0.6"/>')
        parts.append(_text(_MARGIN - 6, y + 4, f"{round(most * share):,}", anchor="end"))
    parts.append(_text(_WIDTH / 2, 30, title, size=16))
    parts.append(_text(_WIDTH / 2, _HEIGHT - 14, unit))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _range(number: int, width: int) -> str:
    return f"{number * width}" if width == 1 else f"{number * width} to {(number + 1) * width - 1}"


def _text(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'
