"""Plots of results: arrays in, a matplotlib axes out. Needs the extra `report`.

Every function draws on `ax`, or on a new figure, and returns the axes. Called again with the axes
it returned, `removal_curve`, `noise_curve` and `forgetting_curve` draw the next method beside the
first, in the next colour; `label` is its name in the legend. Nothing in matplotlib's settings is
read or changed but the size of text. Results draw themselves with `plot()`.

| function                | of                                                                |
|-------------------------|-------------------------------------------------------------------|
| `influence_distribution`| how influence is spread over rows, proponents and opponents apart |
| `removal_curve`         | loss after removing the rows ranked first                         |
| `noise_curve`           | wrong labels found against rows inspected                         |
| `lds_comparison`        | a bar with its interval for each method                           |
| `effect_scatter`        | retrained against predicted effects, of orders or subsets         |
| `position_map`          | effect of each batch at each place                                |
| `memorisation_map`      | how well each batch is known, by its place                        |
| `forgetting_curve`      | what a batch's loss is, by the steps since                        |
| `curriculum_histogram`  | an order found, among random ones                                 |
| `counterfactual_search` | the sets tried to flip a prediction                               |

Raises:
    InputError: Arrays that are empty, not finite, or of shapes that do not fit.
    MissingPackageError: matplotlib is not installed.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from influence.checks import check_whole
from influence.errors import InputError, StorageError
from influence.plot_style import (
    CHANCE,
    DIVERGING,
    OPPONENT,
    PROPONENT,
    REFERENCE,
    axes_or_new,
    ends,
    finished,
    has,
    next_look,
    numbers,
    reference_look,
    same_shape,
    zero_line,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]

HEAVY = 50  # times the median magnitude that makes the largest one a heavy tail
DECADES = 5  # of magnitude that a logarithmic axis shows


def influence_distribution(
    values: ArrayLike, ax: "Axes | None" = None, *, unit: str = "loss", bins: int = 24
) -> "Axes":
    """Histogram of influence: opponents left of 0, proponents right of it.

    Where the largest value is over 50 times the median one, the axis is logarithmic on both sides;
    values below a 100,000th of the largest are then one grey bar at 0. Zeros are not drawn, but
    counted in the title.

    Args:
        values: Influence on one query, shape (n_train,), or on many, (n_train, n_queries).
        ax: Axes to draw on.
        unit: Of the values, as the provenance states it.
        bins: Number of bars on the longer side.
    """
    check_whole("bins", bins, least=1)
    found = numbers("values", values, 2 if np.ndim(values) == 2 else 1)
    drawn = found[found != 0]
    size = np.abs(drawn) if drawn.size else np.ones(1)
    most = float(size.max())
    heavy = most > HEAVY * float(np.median(size))
    least = max(float(size.min()), most * 10.0**-DECADES)
    edges = np.geomspace(least, most, bins + 1) if heavy else np.linspace(0, most, bins + 1)
    edges[[0, -1]] = least if heavy else 0.0, most
    axes = axes_or_new(ax)
    for sign, colour, name in ((-1.0, OPPONENT, "opponents"), (1.0, PROPONENT, "proponents")):
        side = sign * drawn[sign * drawn > 0]
        counts = np.histogram(side, edges)[0]
        left = edges[:-1] if sign > 0 else -edges[1:]
        axes.bar(left, counts, np.diff(edges), align="edge", color=colour, edgecolor="white",
                 linewidth=0.4, label=f"{name} ({len(side):,})")  # fmt: skip
    if heavy:
        small = int((size < least).sum())
        if small:
            named = f"of them within ±{least:.1g} ({small:,})"
            axes.bar(0, small, 2 * least, color=REFERENCE, alpha=0.6, label=named)
        _signed_log(axes, least, most)
    axes.axvline(0, color=REFERENCE, linewidth=1)
    axes.set_ymargin(0.2)  # room for the legend
    n_queries = found.shape[1] if found.ndim == 2 else 1
    counted = "training rows" if n_queries == 1 else "pairs of row and query"
    zeros = found.size - drawn.size
    title = f"{found.size:,} {counted}" + (f", {zeros:,} of influence 0" if zeros else "")
    return finished(axes, title, f"influence ({unit})", counted)


def removal_curve(
    fractions: ArrayLike,
    mean: ArrayLike,
    interval: ArrayLike | None = None,
    ax: "Axes | None" = None,
    *,
    label: str | None = None,
    what: str = "removed",
    reference: bool = False,
) -> "Axes":
    """Mean change of loss as more of the rows ranked first are changed, a line with its band.

    Args:
        fractions: Shares of the training rows, 0 to 1, shape (n_fractions,).
        mean: Mean change of the queries' loss, same shape; NaN where nothing could be trained.
        interval: Lower and upper ends, shape (2, n_fractions); NaN where there are none.
        ax: Axes to draw on.
        label: Name of the method.
        what: What was done to the rows: "removed" or "relabelled".
        reference: It is what the methods must beat, e.g. a random ranking: grey and dashed.
    """
    shares, effect = numbers("fractions", fractions), numbers("mean", mean, missing=True)
    same_shape({"fractions": shares, "mean": effect})
    _check_shares({"fractions": shares})
    low, high = ends(interval, effect)
    axes = axes_or_new(ax)
    look = reference_look() if reference else next_look(axes)
    axes.plot(100 * shares, effect, label=label, **look)
    axes.fill_between(100 * shares, low, high, color=look["color"], alpha=0.15, linewidth=0)
    zero_line(axes)
    banded = " (band: 95 %)" if np.isfinite([low, high]).any() else ""
    title = f"Retrained with the top rows {what}{banded}"
    return finished(axes, title, f"training rows {what} (%)", "mean change of the queries' loss")


def noise_curve(
    inspected: ArrayLike, recall: ArrayLike, ax: "Axes | None" = None, *, label: str | None = None
) -> "Axes":
    """Share of the wrong labels found against the share of the rows inspected, and chance.

    Args:
        inspected: Shares of the rows, 0 to 1, shape (n_points,).
        recall: Share of the wrong labels among them, same shape.
        ax: Axes to draw on.
        label: Name of the method.
    """
    shares, found = numbers("inspected", inspected), numbers("recall", recall)
    same_shape({"inspected": shares, "recall": found})
    _check_shares({"inspected": shares, "recall": found})
    axes = axes_or_new(ax)
    every = max(1, len(shares) // 10)
    axes.plot(100 * shares, 100 * found, label=label, markevery=every, **next_look(axes))
    if not has(axes, CHANCE):
        named = "random order" if label is not None else None
        axes.plot([0, 100], [0, 100], label=named, **reference_look())
    title = "Wrong labels found, most suspicious rows first"
    return finished(axes, title, "training rows inspected (%)", "wrong labels found (%)")


def lds_comparison(
    names: Sequence[str],
    mean: ArrayLike,
    interval: ArrayLike | None = None,
    ax: "Axes | None" = None,
    *,
    noise_floor: float | None = None,
    measure: str = "LDS",
) -> "Axes":
    """A bar for each method, the first on top, with its interval.

    Args:
        names: Of the methods.
        mean: Mean rank correlation with retraining, shape (n_methods,).
        interval: Lower and upper ends, shape (2, n_methods); NaN where there are none.
        ax: Axes to draw on.
        noise_floor: Agreement of two retrainings that differ by their seeds, as a line.
        measure: What the bars show.
    """
    height = numbers("mean", mean)
    if len(names) != len(height):
        raise InputError(f"Expected a name for each mean, got {len(names)} and {len(height)}.")
    low, high = ends(interval, height)
    floor = None if noise_floor is None else float(numbers("noise_floor", [noise_floor])[0])
    axes = axes_or_new(ax)
    places = np.arange(len(height))
    colours = [REFERENCE if name == "random" else PROPONENT for name in names]
    axes.barh(places, height, color=colours, alpha=0.85, height=0.7)
    known = np.isfinite(low) & np.isfinite(high)
    below, above = np.maximum(height - low, 0)[known], np.maximum(high - height, 0)[known]
    axes.errorbar(height[known], places[known], xerr=np.stack([below, above]), fmt="none",
                  ecolor="black", elinewidth=1.2, capsize=3)  # fmt: skip
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.axvline(0, color=REFERENCE, linewidth=1)
    if floor is not None:
        axes.axvline(floor, label="retrained twice, other seeds", **reference_look())
    told = " (line: 95 % interval)" if known.any() else ""
    finished(axes, f"Agreement with real retraining{told}", f"{measure} (rank correlation)", "")
    axes.grid(False, axis="y")
    return axes


def effect_scatter(
    predicted: ArrayLike, retrained: ArrayLike, ax: "Axes | None" = None, *, what: str = "change"
) -> "Axes":
    """Retrained against predicted effects; rank correlation and slope stand in the title.

    Both are means over the queries, as `agreement` has them; the grey line is a perfect prediction.

    Args:
        predicted: Predicted changes of loss, shape (n_changes, n_queries) or (n_changes,).
        retrained: The real ones, same shape.
        ax: Axes to draw on.
        what: A change, in the title: "subset", "order".
    """
    from influence.evaluate import compare

    guess, real = (
        array[:, None] if array.ndim == 1 else array
        for array in (np.asarray(predicted), np.asarray(retrained))
    )
    guess, real = numbers("predicted", guess, 2), numbers("retrained", real, 2)
    found = compare(guess, real)
    axes = axes_or_new(ax)
    axes.plot(guess, real, ".", color=PROPONENT, alpha=0.6, markersize=7, markeredgewidth=0)
    axes.axline((0, 0), slope=1, color=REFERENCE, linewidth=1)
    axes.locator_params(axis="x", nbins=6)
    n, n_queries = guess.shape
    over = f"{n} {what}s" + (f", mean of {n_queries} queries" if n_queries > 1 else "")
    slope = np.nanmean(found.slope) if np.isfinite(found.slope).any() else np.nan
    title = f"Spearman {found.mean:.2f}, slope {slope:.2g} ({over})"
    return finished(axes, title, "predicted change of loss", "change of loss after retraining")


def position_map(
    values: ArrayLike, ax: "Axes | None" = None, *, unit: str = "batch", of: str = "loss"
) -> "Axes":
    """Effect of each item at each place of the training: blue = the loss is lower.

    Args:
        values: As of `positions`: shape (n_places, n_items), or (n_queries, n_places, n_items),
            of which the mean over queries is drawn.
        ax: Axes to draw on.
        unit: What has a place: "batch" or "sample".
        of: What is lowered or raised.
    """
    found = numbers("values", values, 3 if np.ndim(values) == 3 else 2)
    mean = found.mean(axis=0) if found.ndim == 3 else found
    title = f"Effect of each {unit} at each place (blue: lower {of})"
    return _map(mean.T, ax, title, unit, f"change of {of}")


def memorisation_map(values: ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Loss of each batch after training, by its own place, against its mean: blue = better known.

    Args:
        values: Shape (n_batches, n_places).
        ax: Axes to draw on.
    """
    title = "How well each batch is known in the end (blue: better)"
    return _map(numbers("values", values, 2), ax, title, "batch", "its loss, against its mean")


def forgetting_curve(
    losses: ArrayLike, ax: "Axes | None" = None, *, label: str | None = None
) -> "Axes":
    """A batch's loss by the steps taken since it was trained on, against its mean over places.

    Args:
        losses: Shape (n_steps,), from 0 steps on.
        ax: Axes to draw on.
        label: Name of the run or method.
    """
    effect = numbers("losses", losses)
    axes = axes_or_new(ax)
    axes.plot(np.arange(len(effect)), effect, label=label, **next_look(axes))
    zero_line(axes)
    axes.locator_params(axis="x", integer=True)
    title = "Loss of a batch, by how long ago it was (lower: better known)"
    return finished(axes, title, "steps since the batch", "its loss, against its mean")


def curriculum_histogram(random: ArrayLike, found: float, ax: "Axes | None" = None) -> "Axes":
    """Real effects of random orders, and of one that was found; the recorded order has 0.

    Args:
        random: Mean change of loss of each random order, shape (n_orders,).
        found: The same of the order found.
        ax: Axes to draw on.
    """
    effects, one = numbers("random", random), float(numbers("found", [found])[0])
    axes = axes_or_new(ax)
    bins = min(20, max(5, len(effects) // 2))
    named = f"{len(effects)} random orders"
    axes.hist(effects, bins=bins, color=REFERENCE, alpha=0.6, label=named)
    axes.axvline(0, color="black", linewidth=1.2, linestyle=":", label="recorded order")
    axes.axvline(one, color=OPPONENT, linewidth=2.2, label="order found")
    axes.locator_params(axis="x", nbins=6)
    rank = 1 + int((effects <= one).sum())
    title = f"Really trained: the order found is {rank} of {len(effects) + 1} (left: better)"
    return finished(axes, title, "change of the mean loss, after retraining", "orders")


def counterfactual_search(sizes: ArrayLike, flipped: ArrayLike, ax: "Axes | None" = None) -> "Axes":
    """Sizes of the sets tried, in order, and which of them flipped the prediction.

    Args:
        sizes: Rows removed in each retraining, shape (n_retrainings,).
        flipped: Whether the prediction was another one then, same shape.
        ax: Axes to draw on.
    """
    removed, flips = numbers("sizes", sizes), numbers("flipped", flipped) != 0
    same_shape({"sizes": removed, "flipped": flips})
    axes = axes_or_new(ax)
    step = np.arange(1, len(removed) + 1)
    axes.plot(step, removed, color=REFERENCE, linewidth=1)
    sides = ((False, PROPONENT, "o", "does not flip"), (True, OPPONENT, "D", "flips"))
    for does, colour, marker, name in sides:
        here = flips == does
        axes.plot(step[here], removed[here], marker, color=colour, label=name)
    axes.locator_params(axis="x", integer=True)
    best = (
        f"{removed[flips].min():.0f} rows flip the prediction" if flips.any() else "None flips it"
    )
    return finished(axes, f"{best} ({len(removed)} retrainings)", "retraining", "rows removed")


def panels(n: int) -> "tuple[Figure, NDArray[Any]]":
    """A new figure of axes side by side, shape (n,)."""
    figure: Any = axes_or_new(None).figure
    figure.clear()
    figure.set_size_inches(5 * n, 4)
    return figure, np.atleast_1d(figure.subplots(1, n))


def draw(path: str | os.PathLike[str], plots: Sequence[Callable[["Axes"], object]]) -> None:
    """Draws pictures side by side into a file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    figure, axes = panels(len(plots))
    for plot, ax in zip(plots, axes, strict=True):
        plot(ax)
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StorageError(f"Could not write {os.fspath(path)}: {error}.") from error
    finally:
        from matplotlib import pyplot

        pyplot.close(figure)


def _signed_log(axes: "Axes", least: float, most: float) -> None:
    """A horizontal axis that is logarithmic on both sides of 0, with few and round ticks."""
    axes.set_xscale("symlog", linthresh=least, linscale=0.3)
    decades = np.arange(np.ceil(np.log10(least) + 0.7), np.floor(np.log10(most)) + 1)
    ticks = 10.0 ** decades[:: -max(1, -(-len(decades) // 3))][::-1]
    axes.set_xticks([*-ticks[::-1], 0.0, *ticks])


def _check_shares(given: dict[str, Floats]) -> None:
    for name, shares in given.items():
        if shares.min() < 0 or shares.max() > 1:
            raise InputError(
                f"Expected {name} as shares from 0 to 1, got {shares.min():g} to "
                f"{shares.max():g}; divide percentages by 100."
            )


def _map(values: Floats, ax: "Axes | None", title: str, unit: str, meaning: str) -> "Axes":
    """A picture of values, shape (n_items, n_places), white at 0."""
    axes = axes_or_new(ax)
    most = float(np.abs(values).max()) or 1.0
    picture = axes.imshow(values, cmap=DIVERGING, vmin=-most, vmax=most, aspect="auto")
    axes.locator_params(integer=True)
    figure: Any = axes.figure
    figure.colorbar(picture, ax=axes, label=meaning)
    finished(axes, title, "place in training", unit)
    axes.grid(False)
    return axes
