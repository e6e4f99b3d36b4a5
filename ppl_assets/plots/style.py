"""How every chart looks: palette, sizes, number formats, labels and PNG encoding.

Belongs here: what two charts share. Does not belong here: any one chart.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Size = Literal["page", "small"]
"""page: for a desktop page. small: for a phone and for Dagster's metadata pane."""

WIDTH_INCHES: dict[Size, float] = {"page": 9.6, "small": 4.1}
DOTS_PER_INCH: dict[Size, int] = {"page": 170, "small": 176}
FONT_POINTS: dict[Size, float] = {"page": 9.0, "small": 7.6}

INK, MUTED, FAINT, GRID, PAPER = "#1c2126", "#5c6670", "#b9c1c8", "#e7eaed", "#ffffff"
# Okabe and Ito's colour-blind safe set, one role each.
SELECTED, TEST, FITTED, PREDICTED = "#0072b2", "#d55e00", "#0072b2", "#a8487f"

COLORS = 128
"""Palette of an encoded chart: no pixel moves by more than 10 of 255 (256 colours: 6, and 14 % more bytes)."""

MARKDOWN_LIMIT = 100_000
"""Bytes of PNG that an event log row should carry at most."""


@dataclass(frozen=True)
class Label:
    """A text that belongs to a point, in data coordinates."""

    x: float
    y: float
    text: str
    color: str = INK


@contextmanager
def styled(size: Size) -> Iterator[None]:
    """Matplotlib's settings for one chart, put back afterwards.

    Text is never parsed as mathematics: names come from users and may hold a dollar sign.
    """
    points = FONT_POINTS[size]
    settings: dict[str, Any] = {
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": points,
        "axes.titlesize": points,
        "axes.labelsize": points,
        "xtick.labelsize": points - 0.8,
        "ytick.labelsize": points - 0.8,
        "axes.titlelocation": "left",
        "axes.titlecolor": INK,
        "axes.labelcolor": MUTED,
        "axes.edgecolor": FAINT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.color": INK,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": MUTED,
        "ytick.labelcolor": MUTED,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "figure.facecolor": PAPER,
        "axes.facecolor": PAPER,
        "lines.solid_capstyle": "round",
        "figure.constrained_layout.h_pad": 0.05,
        "figure.constrained_layout.w_pad": 0.05,
    }
    import matplotlib as mpl

    with mpl.rc_context(settings):
        yield


def new_figure(size: Size, height: float) -> Figure:
    """An empty figure of the size's width and ``height`` inches, drawn by Agg."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_INCHES[size], height), dpi=DOTS_PER_INCH[size], layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def encode(figure: Figure) -> bytes:
    """The figure as a PNG with a palette: a third of the bytes, no visible difference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return _palette_png(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), COLORS)


def _palette_png(image: Image.Image, colors: int) -> bytes:
    """PNG bytes of an image reduced to so many colours.

    The palette covers the range of colours: a median cut spends it on greys, and a small mark in orange turns brown.
    """
    buffer = io.BytesIO()
    reduced = image.quantize(colors, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    reduced.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def as_markdown(png: bytes, alt: str) -> str:
    """A Markdown image that carries its own bytes, for Dagster metadata.

    A PNG over 100 kB is encoded again with fewer colours, then smaller.

    Raises:
        ValueError: it stays over 100 kB even at a quarter of its size.
    """
    small = png
    for colors, scale in ((64, 1.0), (32, 1.0), (64, 0.5), (32, 0.25)):
        if len(small) <= MARKDOWN_LIMIT:
            break
        image = Image.open(io.BytesIO(png)).convert("RGB")
        small = _palette_png(
            image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale)))), colors
        )
    if len(small) > MARKDOWN_LIMIT:
        raise ValueError(
            f"image {alt!r} takes {len(small):,} bytes, over {MARKDOWN_LIMIT:,}; draw it with size='small'"
        )
    words = "".join(" " if character in "[]\\\r\n" else character for character in alt)
    return f"![{words}](data:image/png;base64,{base64.b64encode(small).decode('ascii')})"


def perplexity_text(value: float) -> str:
    """A perplexity with three digits: 7.31, 23.4, 239, 1,670."""
    if not math.isfinite(value) or value == 0:
        return str(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{round(value, 2 - math.floor(math.log10(abs(value)))):,.{decimals}f}"


NAMES = {
    "d_only": "tokens only",
    "scale_free": "scale-free",
    "e_at_bound": "E at bound",
    "e_near_min": "E near the least loss",
    "ill_conditioned": "ill-conditioned",
}
"""Identifiers whose plain reading is not the same letters."""


def words(name: str) -> str:
    """An identifier of ours as words."""
    return NAMES.get(name, name.replace("_", " "))


def tokens_text(value: float) -> str:
    """A token count, short: 512, 4.1 k, 66 k, 1.2 M."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.2g}{name}" if value < 100 * unit else f"{value / unit:.0f}{name}"
    return f"{value:.0f}"


def plain_text(value: float) -> str:
    """A tick in full: 0.5, 30, 10,000."""
    return f"{value:,.10g}"


def log_ticks(low: float, high: float, most: int = 9) -> list[float]:
    """At most about ``most`` round numbers (1, 2, 5 or 1, 3 or decades) from ``low`` to ``high``, both positive."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(ticks) <= most:
            break
    return ticks


def log_axis(axis: Any, low: float, high: float, text: Any = plain_text, most: int = 9) -> None:
    """Plain-number ticks for a logarithmic axis that runs from ``low`` to ``high``."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


_OFFSETS = tuple(
    (math.cos(turn) * reach, math.sin(turn) * reach)
    for reach in (9.0, 17.0, 28.0)
    for turn in np.arange(8) * math.pi / 4
)


def place_labels(axes: Any, labels: Sequence[Label], avoid: Sequence[tuple[float, float]] = ()) -> None:
    """Write each label beside its point where it covers least: other labels, marked points, the frame's outside.

    Args:
        axes: the axes; limits must be final.
        labels: the labels, most important first.
        avoid: points in data coordinates that should stay visible.
    """
    figure = axes.figure
    figure.draw_without_rendering()
    renderer, frame = figure.canvas.get_renderer(), axes.get_window_extent()
    marks = axes.transData.transform([*avoid, *((label.x, label.y) for label in labels)])
    taken: list[Any] = []
    for label in labels:
        best: tuple[float, Any, Any] | None = None
        for rank, (right, up) in enumerate(_OFFSETS):
            side = "left" if right > 1 else "right" if right < -1 else "center"
            note = axes.annotate(
                label.text, (label.x, label.y), (right, up), textcoords="offset points", ha=side, va="center",
                color=label.color, annotation_clip=False, zorder=9, linespacing=1.15,
                bbox={"boxstyle": "round,pad=0.18", "facecolor": PAPER, "edgecolor": "none", "alpha": 0.82},
            )  # fmt: skip
            box = note.get_window_extent(renderer).padded(0.35 * note.get_size() * figure.dpi / 72.0)
            cost = rank * 0.01 + _cost(box, frame, taken, marks)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, note, box)
            else:
                note.remove()
        if best is not None:
            taken.append(best[2])


def _cost(box: Any, frame: Any, taken: Sequence[Any], marks: Any) -> float:
    """How much a label's box hides: 1 for a covered mark or a whole covered label, 3 for lying outside."""
    area = box.width * box.height

    def shared(other: Any) -> float:
        across = min(box.x1, other.x1) - max(box.x0, other.x0)
        return max(0.0, across) * max(0.0, min(box.y1, other.y1) - max(box.y0, other.y0)) / area

    hidden = np.sum((marks[:, 0] > box.x0) & (marks[:, 0] < box.x1) & (marks[:, 1] > box.y0) & (marks[:, 1] < box.y1))
    return float(hidden) + sum(map(shared, taken)) * 2.0 + (1.0 - shared(frame)) * 3.0
