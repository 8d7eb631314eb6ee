"""What all plots share: colours, axes, checks of arrays. No setting of matplotlib is changed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from influence.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which people with any colour vision tell apart, from dark to light.
PROPONENT, OPPONENT, REFERENCE = "#0072B2", "#D55E00", "#767676"
COLOURS = (PROPONENT, OPPONENT, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DIVERGING = "RdBu_r"  # blue = lower loss
MARKERS = "osD^vP"
DASHES: Sequence[Any] = ("-", (0, (6, 2)), (0, (2, 1.5)))  # where there are more than six methods

METHOD, CHANCE, ZERO = "method", "chance", "zero"  # group ids of what is drawn


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
    return pyplot.subplots(figsize=(6, 4), layout="constrained")[1]


def next_look(axes: "Axes") -> dict[str, Any]:
    """Colour, marker and dashes of the next method on these axes."""
    n = sum(line.get_gid() == METHOD for line in axes.lines)
    round_, place = divmod(n, len(COLOURS))
    return {
        "color": COLOURS[place],
        "marker": MARKERS[place],
        "linestyle": DASHES[round_ % len(DASHES)],
        "gid": METHOD,
        "markersize": 4,
        "linewidth": 1.8,
    }


def reference_look() -> dict[str, Any]:
    """How chance, and whatever else is to be beaten, is drawn."""
    return {"color": REFERENCE, "linestyle": (0, (4, 3)), "linewidth": 1.4, "gid": CHANCE}


def has(axes: "Axes", group: str) -> bool:
    """Whether a line of the group is drawn already."""
    return any(line.get_gid() == group for line in axes.lines)


def zero_line(axes: "Axes") -> None:
    """A thin line at no effect, once."""
    if not has(axes, ZERO):
        axes.axhline(0, color=REFERENCE, linewidth=0.8, zorder=1, gid=ZERO)


def finished(axes: "Axes", title: str, x: str, y: str) -> "Axes":
    """The axes with their title and labels, a light grid, and a legend if anything has a label."""
    axes.set_title(title, loc="left", fontsize="medium")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color=REFERENCE, alpha=0.2, linewidth=0.6)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize="small")
    return axes


def numbers(
    name: str, values: ArrayLike, n_axes: int = 1, *, missing: bool = False
) -> NDArray[np.float64]:
    """Values as an array that can be drawn.

    Args:
        name: Of the argument, for the message.
        values: What came.
        n_axes: How many axes it must have.
        missing: Single NaN may stand among them, for what was not measured.

    Raises:
        InputError: No numbers, another shape, none at all, infinite or missing ones.
    """
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected numbers as {name}, got something else ({error}).") from error
    if found.ndim != n_axes or not found.size:
        raise InputError(
            f"Expected {name} of {n_axes} axes and at least one number, got shape {found.shape}."
        )
    refused = np.isinf(found) if missing else ~np.isfinite(found)
    if refused.any() or np.isnan(found).all():
        place = tuple(np.argwhere(refused)[0].tolist()) if refused.any() else "all places"
        raise InputError(
            f"Expected finite numbers as {name}, but at {place} they are missing or infinite; "
            "leave those out."
        )
    return found


def same_shape(given: dict[str, NDArray[Any]]) -> None:
    """Refuses arrays of different shapes."""
    shapes = {name: array.shape for name, array in given.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise InputError(f"Expected {' and '.join(shapes)} of one shape, got {told}.")


def ends(interval: ArrayLike | None, like: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower and upper ends of intervals, shape (2, n); NaN where there are none."""
    if interval is None:
        return np.full((2, len(like)), np.nan)
    try:
        found = np.asarray(interval, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Expected numbers as interval, got something else ({error}).") from error
    if found.shape != (2, len(like)):
        raise InputError(
            f"Expected interval of shape (2, {len(like)}), lower ends and upper ends, got "
            f"{found.shape}."
        )
    if np.isinf(found).any() or (found[0] > found[1]).any():
        raise InputError("Expected intervals whose lower ends are finite and below the upper ones.")
    return found
