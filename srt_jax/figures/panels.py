"""Draws panels: curves with a band over seeds, bars, stop lines. Each figure is one PNG file."""

import contextlib
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from srt_jax.figures.runs import Group, Points, RunData, mean_and_range
from srt_jax.files import replaced_file

COLUMNS = 4  # panels of a row
STYLES = ("-", "--", ":", "-.")
SHARES = (-0.02, 1.02)  # the limits of an axis for shares
BAND = "band: lowest to highest seed"
DOTS = 12  # a curve with more points than this has no dots


@dataclasses.dataclass(frozen=True)
class Panel:
    """A panel with a curve for each group of runs.

    points: the curve of a run. limits: of the y-axis; by default 0 and the highest value. dots: whether to mark the
    points of a curve with at most DOTS of them. second: a further curve of each run, dashed and without a band.
    """

    title: str
    points: Callable[[RunData], Points]
    y: str = ""
    limits: tuple[float, float] | None = None
    dots: bool = False
    second: Callable[[RunData], Points] | None = None


def style(position: int) -> dict:
    """Colour and line style of the curve with this position: 40 different ones."""
    return {"color": f"C{position % 10}", "linestyle": STYLES[position // 10 % len(STYLES)]}


@contextlib.contextmanager
def sheet(path: pathlib.Path, panels: int, width: float = 4.0, height: float = 3.6, columns: int = COLUMNS) -> Iterator:
    """(figure, axes): as many axes as panels. Writes the PNG file at the end, under its name when it is complete."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    across = min(columns, panels)
    rows = math.ceil(panels / across)
    figure, axes = plt.subplots(
        rows, across, figsize=(width * across, height * rows + 0.5), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.grid(alpha=0.3)
        axis.set_axisbelow(True)
    for axis in axes.flat[panels:]:
        axis.set_axis_off()
    yield figure, list(axes.flat[:panels])
    save(figure, path)
    plt.close(figure)


def save(figure, path: pathlib.Path, dpi: int = 110, colours: int = 0) -> None:
    """Writes a figure as a PNG file.

    dpi: pixels per inch. colours: size of the file's palette, 256 at most. With 256 the file takes about a quarter of
    the bytes, and some mixed colours of overlapping bands change a little. 0: no palette.
    """
    from PIL import Image

    full = io.BytesIO()
    figure.savefig(full, dpi=dpi, format="png")
    image = Image.open(full).convert("RGB")
    if colours:
        # This method keeps the colours of thin lines. The default one changes some of them visibly.
        image = image.quantize(colours, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(path) as file:
        image.save(file, format="PNG", optimize=True)


def draw_curves(path: pathlib.Path, panels: Sequence[Panel], groups: Sequence[Group]) -> None:
    """Panels over the steps with one curve per group: the mean of its seeds, and a band from the lowest to the highest.

    A dashed line shows the step at which a run ended early, and a dotted one the evaluation that was kept as the best.
    A dash-dotted line shows the step after which the guard returned to an earlier checkpoint.
    """
    with sheet(path, len(panels)) as (figure, axes):
        for axis, panel in zip(axes, panels):
            for position, group in enumerate(groups):
                draw_group(axis, group.curves(panel.points), group.label, position, panel.dots)
                if panel.second:
                    draw_group(axis, group.curves(panel.second), None, position, panel.dots, second=True)
            axis.set(title=panel.title, xlabel="step", ylabel=panel.y)
            axis.set_ylim(*(panel.limits or (0, None)))
            if not any(len(line.get_xdata()) for line in axis.lines):
                axis.text(0.5, 0.5, "not measured", ha="center", va="center", color="gray", transform=axis.transAxes)
                axis.set(xticks=[], yticks=[])
        stops = [stop_lines(axes, group, position) for position, group in enumerate(groups)]
        returns = [return_lines(axes, group, position) for position, group in enumerate(groups)]
        add_legend(figure, axes, groups, any(stops), any(returns))


def draw_group(axis, curves: Sequence[Points], label: str | None, position: int, dots: bool, second=False) -> None:
    """Adds the mean of curves and their band. Without curves the label still appears in the legend."""
    look = style(position) | ({"linestyle": "--", "alpha": 0.7} if second else {})
    x, mean, low, high = mean_and_range(curves)
    few = len(x) < 3 or (dots and len(x) <= DOTS)
    axis.plot(
        x, mean, label=label.replace("_", " ") if label else None, marker="o" if few else None, markersize=4, **look
    )
    if len(curves) > 1 and not second:
        axis.fill_between(x, low, high, color=look["color"], alpha=0.2, linewidth=0)


def stop_lines(axes: Sequence, group: Group, position: int) -> bool:
    """Marks where runs of a group ended early in all panels. Returns whether one did."""
    stopped = [run.summary for run in group.runs if run.summary.get("ended_early")]
    for summary in stopped:
        for axis in axes:
            color = style(position)["color"]
            axis.axvline(summary["steps"], color=color, linestyle="--", linewidth=1, alpha=0.8)
            if summary["best"].get("step") not in (None, summary["steps"]):
                axis.axvline(summary["best"]["step"], color=color, linestyle=":", linewidth=1, alpha=0.8)
    return bool(stopped)


def return_lines(axes: Sequence, group: Group, position: int) -> bool:
    """Marks in all panels where the guard returned runs of a group (guard.action). Returns whether it returned one."""
    found = [run.summary["fallback"] for run in group.runs if run.summary.get("fallback")]
    for fallback in found:
        for axis in axes:
            axis.axvline(fallback["step"], color=style(position)["color"], linestyle="-.", linewidth=1, alpha=0.8)
    return bool(found)


def add_legend(figure, axes: Sequence, groups: Sequence[Group], stopped: bool, returned: bool = False) -> None:
    """The legend under the panels, with what bands and vertical lines mean if there are any."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles, labels = axes[0].get_legend_handles_labels()
    if any(len(group.runs) > 1 for group in groups):
        handles, labels = [*handles, Patch(color="gray", alpha=0.3)], [*labels, BAND]
    if stopped:
        lines = [Line2D([], [], color="gray", linestyle=dash, linewidth=1) for dash in ("--", ":")]
        handles, labels = [*handles, *lines], [*labels, "the run ended early", "its best evaluation, which is kept"]
    if returned:
        handles = [*handles, Line2D([], [], color="gray", linestyle="-.", linewidth=1)]
        labels = [*labels, "the guard returned to an earlier checkpoint"]
    legend(figure, handles, labels)


def legend(figure, handles: Sequence, labels: Sequence[str]) -> None:
    """A legend under the panels, with as many columns as the width of the figure allows."""
    inches = 0.6 + 0.085 * max(map(len, labels))  # a line and its text at 10 points
    columns = max(1, min(len(labels), int(figure.get_size_inches()[0] / inches)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def draw_bars(axis, names: Sequence[str], series: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Groups of bars. series: {label: values over seeds, for each name}; the bars are means and have a range."""
    width = 0.8 / len(series)
    for i, (label, values) in enumerate(series.items()):
        x = np.arange(len(names)) + (i - (len(series) - 1) / 2) * width
        means = np.array([np.mean(found) for found in values])
        spread = np.array([[m - min(v), max(v) - m] for m, v in zip(means, values)]).T
        several = any(len(found) > 1 for found in values)
        bars = axis.bar(x, means, width * 0.95, label=label, yerr=spread if several else None, capsize=3)
        axis.bar_label(bars, [f"{m:.2f}" for m in means], padding=2, fontsize=8)
    axis.grid(False, axis="x")
    axis.set_xticks(range(len(names)), list(map(tick, names)))
    axis.set_ylim(0, 1.1)


def tick(name: str) -> str:
    """The label of a group of bars: the number of seeds has a line of its own."""
    return name.replace("_", " ").replace(" (", "\n(")


def width_of_bars(names: Sequence[str]) -> float:
    """The width in inches of a panel with one group of bars per name, so that the names do not overlap."""
    longest = max(len(line) for name in names for line in tick(name).splitlines())
    return max(4.0, 1 + max(1.4, 0.09 * longest) * len(names))
