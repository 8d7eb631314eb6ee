"""The page of a comparison of methods: agreement with retraining, removal curves, costs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from influence.comparison import CHANCE, Comparison, Judged
from influence.removal import EffectCurve
from influence.report.page import Figure, Page, numbers
from influence.report.specs import REFERENCE, Spec, axis, height, look

TITLE = "Which method to believe?"
BAR = 34  # pixels of a method
MEASURES = {
    "lds": (
        "LDS",
        "Linear datamodelling score: how well predicted effects of training on random halves of "
        "the rows rank like the real ones.",
    ),
    "loo": (
        "Single rows",
        "How well predicted effects of leaving out one row at a time rank like the real ones (LOO "
        "correlation).",
    ),
}
COSTS = {"seconds": "time (s)", "peak_mib": "most memory (MiB)"}


def comparison_page(
    found: Comparison,
    about: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    title: str = TITLE,
) -> Page:
    """A page of figures of a comparison; what was not measured has none.

    Args:
        found: What `compare_methods` found.
        about: What else the page tells of it, by name.
        notes: What else it left out.
        title: The page's heading.
    """
    frame = found.to_frame()
    drawn = [_agreement(frame, measure) for measure in MEASURES]
    drawn += [_removal(found), _costs(frame)]
    refused = [f"{one.name} refused: {one.refused}" for one in found.methods if one.refused]
    told = {
        "sign": "larger = better, for all measures",
        "training rows": found.n_train,
        "queries": found.n_queries,
        "seed": found.seed,
    }
    figures = [figure for figure in drawn if figure is not None]
    return Page(title, {**told, **(about or {})}, [*notes, *refused], figures=figures)


def _agreement(frame: pd.DataFrame, measure: str) -> Figure | None:
    """Bars of mean rank correlations with their intervals."""
    title, told = MEASURES[measure]
    columns = [measure, f"{measure}_low", f"{measure}_high"]
    known: Any = frame[frame[measure].notna()].set_index("method")[columns]
    if known.empty:
        return None
    names = [str(name) for name in known.index]
    spec = {
        "data": [
            _bars(known[[name == CHANCE for name in names]], columns, REFERENCE),
            _bars(known[[name != CHANCE for name in names]], columns, "help"),
        ],
        "layout": {
            "xaxis": axis("mean rank correlation"),
            "yaxis": _names(names),
            "height": height(120 + BAR * len(names)),
            "showlegend": False,
        },
    }
    reading = (
        f"{told} Mean rank correlation over the queries, larger = better: 1 = ranks as real "
        "retraining does, 0 = chance. Thin lines: 95 % intervals. Grey: a random ranking."
    )
    return Figure(title, reading, spec, known)


def _bars(known: pd.DataFrame, columns: list[str], tone: str) -> Spec:
    mean, low, high = (known[name].to_numpy(dtype=float) for name in columns)
    return {
        "type": "bar", "orientation": "h", "y": [str(name) for name in known.index],
        "x": numbers(mean), "tone": tone, "marker": {"opacity": 0.8},
        "error_x": {"type": "data", "symmetric": False, "array": numbers(high - mean),
                    "arrayminus": numbers(mean - low), "thickness": 1.5},
        "hovertemplate": "%{y}: %{x:.3f}<extra></extra>",
    }  # fmt: skip


def _removal(found: Comparison) -> Figure | None:
    """All curves, and each with its band beside chance."""
    curves = {one: one.removal for one in found.methods if one.removal is not None}
    if not curves:
        return None
    traces = [_curve(one, curve, i) for i, (one, curve) in enumerate(curves.items())]
    spec = {
        "data": [trace for pair in traces for trace in pair],
        "layout": {
            "xaxis": axis("training rows removed (%)"),
            "yaxis": axis("mean change of loss"),
            "height": 460,
        },
    }
    told = (
        "Mean change of the queries' loss after removing the rows that a method ranks first for "
        "each, and really training again. Positive = the loss rises; larger = better: the method "
        "found rows that matter. A method shown alone, beside a random ranking, has a band: the "
        "95 % interval."
    )
    names = [one.name for one in curves]
    choices = {"all methods": _shown([(False, True) for _ in names])}
    for name in names:
        choices[name] = _shown([(one == name, one in (name, CHANCE)) for one in names])
    return Figure("Removal", told, spec, found.removal_frame().set_index("method"), choices)


def _shown(pairs: Sequence[tuple[bool, bool]]) -> list[Spec]:
    """Whether the band and the line of each curve are seen."""
    return [{"visible": seen} for pair in pairs for seen in pair]


def _curve(one: Judged, curve: EffectCurve, i: int) -> list[Spec]:
    chance = {"tone": REFERENCE, "marker": {"size": 6}, "line": {"dash": "dash", "width": 2}}
    own = chance if one.name == CHANCE else look(i)
    shared = {"type": "scatter", "name": one.name, "legendgroup": one.name, "tone": own["tone"]}
    percent = 100 * curve.fractions
    there = np.isfinite(curve.low) & np.isfinite(curve.high)
    ring = np.concatenate([percent[there], percent[there][::-1]])
    around = np.concatenate([curve.high[there], curve.low[there][::-1]])
    band = {
        **shared, "mode": "lines", "x": numbers(ring), "y": numbers(around), "fill": "toself",
        "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False,
        "visible": False,
    }  # fmt: skip
    drawn = {
        **shared, **own, "mode": "lines+markers", "x": numbers(percent), "y": numbers(curve.mean),
        "hovertemplate": "%{x:.3g} % of the rows: %{y:+.3g}",
    }  # fmt: skip
    return [band, drawn]


def _costs(frame: pd.DataFrame) -> Figure | None:
    """Time and memory of each method that was measured."""
    known: Any = frame[frame["seconds"].notna()].set_index("method")[list(COSTS)]
    if known.empty:
        return None
    names = [str(name) for name in known.index]
    time, memory = (numbers(known[name]) for name in COSTS)
    label = {"hovertemplate": "%{y}: %{x:.3g}<extra></extra>", "y": names}
    dots = {"type": "scatter", "mode": "markers", "tone": "help", "marker": {"size": 10}}
    bars = {"type": "bar", "orientation": "h", "tone": "help", "xaxis": "x2", "yaxis": "y2"}
    powers = np.log10(known["seconds"])
    decades = [int(np.floor(powers.min())), int(np.floor(powers.max())) + 1]
    pixels = height(240 + 2 * BAR * len(names))
    half = 0.5 - 45 / (pixels - 80)  # the upper axis stands between
    spec = {
        "data": [{**dots, **label, "x": time}, {**bars, **label, "x": memory}],
        "layout": {
            "xaxis": {
                **axis(COSTS["seconds"]),
                "type": "log",
                "range": decades,
                "dtick": 1,
                "exponentformat": "none",
            },
            "xaxis2": {**axis(COSTS["peak_mib"]), "anchor": "y2", "rangemode": "tozero"},
            "yaxis": {**_names(names), "domain": [1 - half, 1]},
            "yaxis2": {**_names(names), "domain": [0, half], "anchor": "x2"},
            "height": pixels,
            "showlegend": False,
        },
    }
    told = (
        "What answering all queries took, fit included. Left = cheaper. Above: time, on a "
        "logarithmic axis. Below: most memory. Answers given ready-made have none."
    )
    return Figure("Cost", told, spec, known.rename(columns=COSTS))


def _names(names: list[str]) -> Spec:
    """An axis of methods, the first on top."""
    return {"categoryorder": "array", "categoryarray": names, "range": [len(names) - 0.5, -0.5]}
