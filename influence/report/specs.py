"""Parts of Plotly figures as plain mappings: arrays in, traces and axes out.

A trace names a `tone`, a colour of the page's style, so that it follows light and dark. The tones
are told apart with any colour vision; lines differ by marker and dashes as well.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from influence.report.page import numbers

Floats = NDArray[np.float64]
Spec = dict[str, Any]

TONES = ("help", "harm", "third", "fourth", "fifth", "text")
MARKERS = ("circle", "square", "diamond", "triangle-up", "star", "x")
DASHES = ("solid", "dash", "dot")
REFERENCE = "quiet"  # the tone of what is to be compared with
MARKED = 40  # places up to which the cells of a map are marked
HEIGHTS = (340, 760)  # pixels


def axis(title: str, n: int | None = None) -> Spec:
    """An axis; of whole numbers below n, where it is given."""
    whole = {} if n is None else {"tickformat": "d", "dtick": max(1, -(-n // 16))}
    return {"title": {"text": title}, **whole}


def look(i: int) -> Spec:
    """Tone, marker and dashes of the i-th line."""
    at = i % len(TONES)
    return {
        "tone": TONES[at],
        "marker": {"symbol": MARKERS[at], "size": 8},
        "line": {"dash": DASHES[i // len(TONES) % len(DASHES)], "width": 2},
    }


def line(
    x: ArrayLike, y: ArrayLike, name: str, tone: str, dash: str = "solid", width: int = 2
) -> Spec:
    """A line without points, in the legend by its name."""
    return {
        "type": "scatter", "mode": "lines", "x": numbers(x), "y": numbers(y), "name": name,
        "tone": tone, "line": {"dash": dash, "width": width}, "hoverinfo": "name",
    }  # fmt: skip


def cells(values: Floats) -> Spec:
    """What of a map depends on its values, shape (n_items, n_places): blue below 0."""
    known = np.abs(values[np.isfinite(values)])
    most = float(known.max()) if known.size and known.max() > 0 else 1.0
    return {"z": [numbers(row) for row in values], "zmin": -most, "zmax": most}


def heat_map(values: Floats, item: str, of: str, marked: Sequence[int] | None = None) -> Spec:
    """A map of items, upwards, at places in training.

    Args:
        values: Shape (n_items, n_places).
        item: What has a place.
        of: What the values are.
        marked: An item of each place, to be marked with a circle.
    """
    n_items, n_places = values.shape
    drawn: Spec = {
        "type": "heatmap", **cells(values), "tone": "diverging",
        "hovertemplate": f"{item} %{{y}} at place %{{x}}: %{{z:+.3g}}<extra></extra>",
        "colorbar": {"title": {"text": of, "side": "top"}, "orientation": "h", "y": 1.02,
                     "yanchor": "bottom", "thickness": 12, "outlinewidth": 0, "nticks": 5},
    }  # fmt: skip
    circles: Spec = {
        "type": "scatter", "mode": "markers", "x": list(range(n_places)), "y": marked,
        "tone": "text", "marker": {"symbol": "circle-open", "size": 7}, "hoverinfo": "skip",
    }  # fmt: skip
    shown = marked is not None and n_places <= MARKED
    return {
        "data": [drawn, circles] if shown else [drawn],
        "layout": {
            "xaxis": {**axis("place in training", n_places), "showgrid": False, "zeroline": False},
            "yaxis": {**axis(item, n_items), "showgrid": False, "zeroline": False},
            "height": height(150 + 24 * n_items),
            "showlegend": False,
        },
    }


def height(pixels: int) -> int:
    """A height within bounds."""
    return int(np.clip(pixels, *HEIGHTS))


def as_table(maps: dict[str, Floats], item: str) -> pd.DataFrame:
    """Maps of shape (n_items, n_places) as one row for each place and item."""
    n_items, n_places = next(iter(maps.values())).shape
    columns = {name: numbers(values.T.ravel()) for name, values in maps.items()}
    items = np.tile(np.arange(n_items), n_places)
    places = pd.Index(np.repeat(np.arange(n_places), n_items), name="place")
    return pd.DataFrame({item: items, **columns}, places)
