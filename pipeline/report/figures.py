"""Figures of one column, as Bokeh models."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.health.spectrum import Components
from pipeline.report.sample import Label
from transforms.statistics.moments import Moments
from transforms.statistics.norms import Norms, bin_edges

if TYPE_CHECKING:
    from bokeh.models import ColumnDataSource
    from bokeh.plotting import figure

STRIPS = 256
"""Dimensions that are drawn apart; more are drawn some together."""
COMPONENTS = 128
"""Principal components of a spectrum that are drawn."""
_BLUE, _PALE, _RED, _GREY = "#2563a8", "#c3d7ec", "#c0392b", "#9aa3ad"
_LARGEST = 1e30  # beyond which figures draw no more
_TEXT_BYTES = 150_000  # of all keys that can be pointed at, and of all labels
_HEIGHT = 240
_TIP = (
    '<div class="tip"><span style="display:@shown;width:56px;height:56px;'
    "background-image:var(--@picture);background-size:contain;"
    'background-repeat:no-repeat"></span>'
    "<div>@key</div><div><b>@label</b></div></div>"
)


def norm_figure(norms: Norms) -> figure:
    """Draw how many rows have which length: all rows that are finite and not zero."""
    edges, counts = bin_edges(), norms.histogram
    filled = np.flatnonzero(counts)
    some = slice(int(filled[0]), int(filled[-1]) + 1)
    data = {"low": edges[:-1][some], "high": edges[1:][some], "rows": counts[some]}
    plot = _figure("length", "rows", x_axis_type="log")
    plot.quad(
        left="low",
        right="high",
        top="rows",
        bottom=0,
        source=data,
        color=_BLUE,
        line_color="white",
    )
    _hover(plot, [("length", "@low to @high"), ("rows", "@rows")])
    return plot


def spectrum_figure(components: Components) -> figure:
    """Draw which share of the variance lies along each principal component."""
    shares = components.shares[:COMPONENTS]
    first = shares.max() or 1.0
    kept = np.flatnonzero(shares > first * 1e-12)
    data = {
        "component": kept + 1,
        "share": shares[kept] * 100,
        "sum": np.cumsum(shares)[kept] * 100,
    }
    plot = _figure("principal component", "% of the variance", y_axis_type="log")
    plot.line("component", "share", source=data, color=_BLUE)
    plot.scatter("component", "share", source=data, color=_BLUE, size=4)
    tips = [("component", "@component"), ("share", "@share %"), ("so far", "@sum %")]
    _hover(plot, tips)
    return plot


def strip_figure(moments: Moments) -> figure:
    """Draw mean, spread, least and greatest value of each dimension, over all rows."""
    data = _strips(moments)
    plot = _figure("dimension", "value")
    width = data.pop("width")
    bar = {"x": "x", "width": width, "source": data}
    plot.vbar(bottom="least", top="most", color=_PALE, **bar)
    plot.vbar(bottom="low", top="high", color=_BLUE, alpha=0.55, **bar)
    plot.scatter("x", "mean", source=data, color="colour", size=3)
    names = ("mean", "std", "least", "most")
    tips = [("dimension", "@dimension"), *((name, f"@{name}") for name in names)]
    _hover(plot, tips)
    return plot


def _strips(moments: Moments) -> dict[str, Any]:
    """Put neighbouring dimensions together until there are no more than `STRIPS`."""
    step = -(-moments.width // STRIPS)
    starts = np.arange(0, moments.width, step)
    ends = np.minimum(starts + step, moments.width)
    sizes = ends - starts

    def mean_of(values: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.add.reduceat(_drawn(values), starts) / sizes
        return found

    mean, std = mean_of(moments.mean), mean_of(moments.std)
    dead = np.add.reduceat(moments.is_constant.astype(np.int64), starts) > 0
    names = [
        str(start) if size == 1 else f"{start} to {start + size - 1}"
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    numbers = {
        "mean": mean,
        "std": std,
        "low": mean - std,
        "high": mean + std,
        "least": np.minimum.reduceat(_drawn(moments.least), starts),
        "most": np.maximum.reduceat(_drawn(moments.most), starts),
    }
    return {
        "x": starts + (sizes - 1) / 2,
        "width": step * 0.9,
        "dimension": names,
        "colour": np.where(dead, _RED, "black").tolist(),
        **{name: values.astype(np.float32) for name, values in numbers.items()},
    }


def _drawn(values: np.ndarray) -> np.ndarray:
    """Give numbers that a browser can draw; squares that overflowed are NaN."""
    finite = np.nan_to_num(values, nan=_LARGEST)
    found: np.ndarray = np.clip(finite, -_LARGEST, _LARGEST)
    return found


def points_source(
    keys: Sequence[str], label: Label | None, pictures: Mapping[int, str]
) -> ColumnDataSource:
    """Hold what all scatters share of the sampled rows: keys, labels, pictures.

    Args:
      keys: of the rows that are drawn.
      label: by which they are coloured.
      pictures: by index of the row; the page has them as CSS variables.
    """
    from bokeh.models import ColumnDataSource

    rows = range(len(keys))
    data = {
        "key": _fitting(keys),
        "label": _fitting(label.values[: len(keys)] if label else [""] * len(keys)),
        "colour": colours(label, len(keys)),
        "picture": [f"picture{i}" if i in pictures else "" for i in rows],
        "shown": ["block" if i in pictures else "none" for i in rows],
    }
    return ColumnDataSource(data)


def _fitting(texts: Sequence[str]) -> list[str]:
    """Cut texts off until they take no more than `_TEXT_BYTES` in a page."""
    for length in (80, 40, 20, 10, 5):
        cut = [text[:length] for text in texts]
        written = html.escape(json.dumps(cut)).replace("\\", "\\\\")  # as Bokeh does
        if len(written) <= _TEXT_BYTES:
            break
    return cut


def scatter_figure(
    components: Components, rows: Sequence[int], source: ColumnDataSource, name: str
) -> figure:
    """Draw sampled rows along their first two principal components.

    Args:
      components: of the rows.
      rows: indexes of them in `source`; others are not drawn.
      source: gets the coordinates.
      name: tells the coordinates of this figure from those of others.
    """
    names = [f"{name}_x", f"{name}_y"]
    for axis, one in enumerate(names):
        values = np.full(len(source.data["key"]), np.nan, np.float32)
        values[rows] = _drawn(components.scores[:, axis])
        source.data[one] = values
    shares = [*components.shares[:2], 0.0]
    plot = _figure(
        f"first component, {shares[0]:.1%} of the variance",
        f"second component, {shares[1]:.1%}",
        height=420,
        tools="pan,box_zoom,wheel_zoom,reset",
    )
    dots = {"fill_color": "colour", "line_color": None, "fill_alpha": 0.75, "size": 6}
    plot.scatter(*names, source=source, **dots)
    _hover(plot, _TIP)
    return plot


def colours(label: Label | None, rows: int) -> list[str]:
    """Give a colour for each row, by its label."""
    from bokeh.palettes import Viridis256

    if label is None:
        return [_BLUE] * rows
    if label.numbers is None:
        known = legend(label)
        return [known.get(value, _GREY) for value in label.values[:rows]]
    numbers = label.numbers[:rows]
    finite = np.isfinite(numbers)
    known_numbers = _drawn(numbers[finite])
    low, high = known_numbers.min(initial=0), known_numbers.max(initial=1)
    if len(known_numbers):
        low, high = known_numbers.min(), known_numbers.max()
    shares = (_drawn(np.where(finite, numbers, low)) - low) / ((high - low) or 1.0)
    return [
        Viridis256[int(share * 255)] if there else _GREY
        for share, there in zip(shares, finite, strict=True)
    ]


def legend(label: Label) -> dict[str, str]:
    """Give the colour of each class."""
    from bokeh.palettes import Category10, Category20

    classes = label.classes
    palette = Category10[10] if len(classes) <= 10 else Category20[20]
    return dict(zip(classes, palette, strict=False))


def _figure(x: str, y: str, *, tools: str = "", **options: Any) -> figure:
    from bokeh.plotting import figure

    plot = figure(
        x_axis_label=x,
        y_axis_label=y,
        tools=tools,
        toolbar_location="right" if tools else None,
        sizing_mode="stretch_width",
        min_width=240,
        **{"height": _HEIGHT, **options},
    )
    plot.toolbar.logo = None
    plot.outline_line_color = None
    plot.grid.grid_line_color = "#e8ebee"
    plot.axis.axis_label_text_font_style = "normal"
    return plot


def _hover(plot: figure, tips: Any) -> None:
    from bokeh.models import HoverTool

    for renderer in plot.renderers:  # which nobody selects or mutes
        renderer.nonselection_glyph = renderer.muted_glyph = None
    tool = HoverTool(tooltips=tips, renderers=plot.renderers[:1], visible=False)
    plot.add_tools(tool)
