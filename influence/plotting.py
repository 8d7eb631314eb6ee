"""Plots of results: arrays in, a matplotlib axes out. Needs the extra `report`."""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from influence.errors import MissingPackageError, StorageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = NDArray[np.float64]


def axes_or_new(ax: "Axes | None") -> "Axes":
    """The axes given, or those of a new figure.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingPackageError(
            f"Plots need matplotlib, which cannot be imported ({error}); "
            "pip install 'influence-toolkit[report]'."
        ) from error
    return pyplot.subplots()[1]


def band(
    x: Floats,
    mean: Floats,
    low: Floats,
    high: Floats,
    ax: "Axes | None" = None,
    label: str | None = None,
) -> "Axes":
    """A line with its interval, all of shape (n_points,)."""
    axes = axes_or_new(ax)
    (line,) = axes.plot(x, mean, marker="o", label=label)
    axes.fill_between(x, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
    if label is not None:
        axes.legend()
    return axes


def scatter(predicted: Floats, retrained: Floats, ax: "Axes | None" = None) -> "Axes":
    """Retrained against predicted effects, both of shape (n_changes, n_queries)."""
    axes = axes_or_new(ax)
    axes.plot(predicted, retrained, ".", alpha=0.5)
    axes.axline((0, 0), slope=1, color="grey", linewidth=1)
    axes.set_xlabel("predicted effect on the loss")
    axes.set_ylabel("effect after retraining")
    return axes


def detection(
    inspected: Floats, recall: Floats, ax: "Axes | None" = None, label: str | None = None
) -> "Axes":
    """Share of the wrong labels found against the share inspected, and chance."""
    axes = axes_or_new(ax)
    axes.plot(100 * inspected, 100 * recall, label=label)
    axes.axline((0, 0), slope=1, color="grey", linewidth=1)
    axes.set_xlabel("training rows inspected (%)")
    axes.set_ylabel("wrong labels found (%)")
    if label is not None:
        axes.legend()
    return axes


def search(
    sizes: NDArray[np.int64], flipped: NDArray[np.bool_], ax: "Axes | None" = None
) -> "Axes":
    """Sizes of the sets tried, in order, and which of them flipped the prediction."""
    axes = axes_or_new(ax)
    step = np.arange(1, len(sizes) + 1)
    axes.plot(step, sizes, color="grey", linewidth=1)
    for does, name in ((False, "does not flip"), (True, "flips")):
        here = flipped == does
        axes.plot(step[here], sizes[here], "o", label=name)
    axes.set_xlabel("retraining")
    axes.set_ylabel("rows removed")
    axes.legend()
    return axes


def panels(n: int) -> "tuple[Figure, NDArray[Any]]":
    """A new figure of axes side by side, shape (n,)."""
    first = axes_or_new(None)
    figure: Any = first.figure
    figure.clear()
    figure.set_size_inches(5 * n, 4)
    return figure, figure.subplots(1, n)


def draw(path: str | os.PathLike[str], plots: Sequence[Callable[["Axes"], object]]) -> None:
    """Draws pictures side by side into a file.

    Raises:
        MissingPackageError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    figure, axes = panels(len(plots))
    for plot, ax in zip(plots, np.atleast_1d(np.asarray(axes)), strict=True):
        plot(ax)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise StorageError(f"Could not write {os.fspath(path)}: {error}.") from error


def bars(
    names: list[str], mean: Floats, low: Floats, high: Floats, ax: "Axes | None" = None
) -> "Axes":
    """A bar for each name, the first on top, with its interval; all of shape (n_names,)."""
    axes = axes_or_new(ax)
    below, above = np.maximum(mean - low, 0.0), np.maximum(high - mean, 0.0)
    axes.barh(names, mean, xerr=np.stack([below, above]), color="tab:blue", alpha=0.7)
    axes.invert_yaxis()
    axes.axvline(0, color="grey", linewidth=1)
    return axes


def found_among(random: Floats, found: float, ax: "Axes | None" = None) -> "Axes":
    """Real effects of random orders, shape (n_orders,), and of one that was found.

    The recorded order has effect 0.
    """
    axes = axes_or_new(ax)
    axes.hist(random, bins=min(20, max(5, len(random) // 2)), color="tab:grey", alpha=0.6)
    axes.axvline(0, color="black", linewidth=1, label="recorded order")
    axes.axvline(found, color="tab:red", linewidth=2, label="order found")
    axes.locator_params(axis="x", nbins=6)
    axes.set_xlabel("effect on the mean loss, after retraining")
    axes.set_ylabel("random orders")
    axes.legend()
    return axes


def position_map(values: Floats, ax: "Axes | None" = None) -> "Axes":
    """Effect of each batch at each place, shape (n_batches, n_places), as a picture."""
    axes = axes_or_new(ax)
    most = float(np.abs(values).max()) or 1.0
    picture = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.locator_params(integer=True)
    axes.set_xlabel("place in training")
    axes.set_ylabel("batch")
    figure: Any = axes.figure
    figure.colorbar(picture, ax=axes, label="effect on the loss")
    return axes


def forgetting(losses: Floats, ax: "Axes | None" = None, label: str | None = None) -> "Axes":
    """Effect on a batch's loss, shape (n,), by the steps taken since it was trained on."""
    axes = axes_or_new(ax)
    axes.plot(np.arange(len(losses)), losses, marker="o", label=label)
    axes.axhline(0, color="grey", linewidth=1)
    axes.set_xlabel("steps since the batch")
    axes.set_ylabel("effect on the loss")
    if label is not None:
        axes.legend()
    return axes
