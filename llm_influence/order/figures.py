"""Figures of results about order, for `order_report`: their arrays as Plotly traces and tables."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import UnsupportedChangeError
from influence.report import Figure
from influence.report.page import numbers
from influence.report.specs import (
    REFERENCE,
    Spec,
    as_table,
    axis,
    cells,
    heat_map,
    line,
    look,
)
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.few import bracketed
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.method import Floats
from llm_influence.order.places import Places
from llm_influence.order.sample_order import Calibration, OrderAnswer

Part = Figure | str  # a picture, or why there is none

MOST_ENTRIES = 250_000  # of all maps of a figure
MOST_QUERIES = 30  # that can be chosen one by one
LOWER = "Blue: a lower loss, better. Orange: a higher one, worse."


@dataclass(frozen=True, eq=False)
class Setting:
    """What figures need to know of the run.

    Attributes:
        unit: What has a place: "batch" or "sample".
        places: Of the run; None where they are not known.
    """

    unit: str
    places: Places | None


def of_answer(answer: OrderAnswer, setting: Setting) -> list[Part]:
    """The effect of each item at each place, mean over the queries and of each."""
    unit = setting.unit
    try:
        values = answer.positions().transpose(0, 2, 1)  # (n_queries, n_items, n_places)
    except UnsupportedChangeError as error:
        return [f"No position map: {error}"]
    if values[0].size > MOST_ENTRIES:
        return [_too_large("position map", values[0])]
    shown = min(len(values), MOST_QUERIES, MOST_ENTRIES // values[0].size)
    maps = {"mean": values.mean(axis=0)}
    if len(values) > 1:
        maps |= {f"query {q}": values[q] for q in range(shown)}
    told = (
        f"Predicted change of loss if a {unit} (upwards) had been trained on at another place "
        f"(across), against the one recorded there. {LOWER} Circles mark the recorded order, whose "
        "change is 0. Only whole orders mean something: the effect of one is the sum over all "
        f"places of its entries. Calibration: {_told(answer.calibration)}"
    )
    recorded = answer.places.recorded.tolist()
    parts: list[Part] = [
        Figure(
            "Position map", told, heat_map(maps["mean"], unit, "change of loss", recorded),
            as_table(maps, unit), {} if len(maps) == 1 else _chosen(maps),
        )
    ]  # fmt: skip
    if shown < len(values) > 1:
        parts.append(f"The position map shows the first {shown} of {len(values)} queries by name.")
    return parts


def of_comparison(found: OrderComparison, setting: Setting) -> list[Part]:
    """Real against predicted effects, of all queries and of each."""
    return [_scatter(found, None)]


def of_curriculum(found: Curriculum, setting: Setting) -> list[Part]:
    """The order found among random ones, where it puts what, and how far to trust it."""
    return [_histogram(found), *_moved(found, setting), _scatter(found.random, found)]


def of_memorisation(found: Memorisation, setting: Setting) -> list[Part]:
    """How well each batch is known by its place, how it is forgotten, and the held-out loss."""
    maps = {"Memorisation": (found.values, "its loss, against its mean", (
        "Loss of each batch (upwards) after training, by its own place in it (across), against its "
        "mean over the places of an epoch. Blue: a lower loss, better known. Orange: a higher one."
    ))}  # fmt: skip
    if found.generalisation is not None:
        maps["Held-out loss"] = (found.generalisation, "held-out loss, against its mean", (
            "Mean held-out loss by the place of each batch, against its mean over the places of an "
            f"epoch. {LOWER}"
        ))  # fmt: skip
    source = "Really trained." if found.method == "measured" else f"Predicted by {found.method}."
    calibration = f"{source} Calibration, on own losses: {_told(found.calibration)}"
    parts: list[Part] = []
    for title, (values, of, told) in maps.items():
        if values.size > MOST_ENTRIES:
            parts.append(_too_large(title, values))
            continue
        spec, table = heat_map(values, "batch", of), as_table({of: values}, "batch")
        parts.append(Figure(title, f"{told} {calibration}", spec, table))
    parts.insert(1, _forgetting(found, calibration))
    return parts


def _forgetting(found: Memorisation, calibration: str) -> Figure:
    curve = found.forgetting
    since = np.arange(len(curve))
    told = (
        "Mean loss of the batches of the last epoch by the steps taken since, against each batch's "
        "mean over the places: below 0 = better known than on average. Rising to the right: what "
        "was read long ago is partly forgotten. Falling: what was read first is known best. "
        f"{calibration}"
    )
    drawn: Spec = {
        "type": "scatter", "mode": "lines+markers", "x": since, "y": numbers(curve), **look(0),
        "hovertemplate": "%{x} steps ago: %{y:+.3g}<extra></extra>",
    }  # fmt: skip
    axes = {"xaxis": axis("steps since the batch", len(curve)), "yaxis": axis("its loss")}
    table = pd.DataFrame({"its loss": numbers(curve)}, pd.Index(since, name="steps since"))
    return Figure("Forgetting", told, {"data": [drawn], "layout": axes}, table)


def _scatter(found: OrderComparison, also: Curriculum | None) -> Figure:
    """Points of random orders, and of the one found where there is one."""
    n_orders, n_queries = found.predicted.shape
    order, query = (axes.ravel() for axes in np.indices((n_orders, n_queries)))
    pairs = {"random order": (found.predicted, found.retrained)}
    if also is not None:
        pairs["order found"] = (also.predicted[None], also.retrained[None])
    ends = np.array([f(found.predicted) for f in (np.nanmin, np.nanmax)])
    spec: Spec = {
        "data": [
            *(_points(name, *pair, look(i)) for i, (name, pair) in enumerate(pairs.items())),
            line(ends, ends, "right size (slope 1)", REFERENCE, "dash"),
        ],
        "layout": {
            "xaxis": axis("predicted change of loss"),
            "yaxis": axis("change after retraining"),
            "height": 440,
        },
    }
    told = (
        f"Each point is one of {n_orders} random orders"
        + ("" if n_queries == 1 else f" and one of {n_queries} queries")
        + ": predicted change of the loss against the recorded order, and the real one after "
        f"training in it. Positive = worse. {_agreement(found)} Calibration beforehand, "
        f"by other orders: {_told(found.calibration)} Method: {found.method}."
    )
    table = pd.DataFrame(
        {"query": query, "predicted": numbers(found.predicted.ravel()),
         "retrained": numbers(found.retrained.ravel())}, pd.Index(order, name="order"),
    )  # fmt: skip
    choices = {}
    if n_queries > 1:
        choices["all queries"] = [_xy(*pair) for pair in pairs.values()]
        for q, spearman in enumerate(found.agreement.spearman[:MOST_QUERIES]):
            choices[f"query {q} (Spearman {_number(spearman)})"] = [
                _xy(*(side[:, q : q + 1] for side in pair)) for pair in pairs.values()
            ]
    return Figure("Predicted and real", told, spec, table, choices)


def _points(name: str, predicted: Floats, retrained: Floats, look: Spec) -> Spec:
    marker = {**look["marker"], "opacity": 0.75}
    return {
        "type": "scatter", "mode": "markers", "name": name, **_xy(predicted, retrained),
        "tone": look["tone"], "marker": marker,
        "hovertemplate": "predicted %{x:+.3g}, real %{y:+.3g}",
    }  # fmt: skip


def _xy(predicted: Floats, retrained: Floats) -> Spec:
    return {"x": numbers(predicted.ravel()), "y": numbers(retrained.ravel())}


def _histogram(found: Curriculum) -> Figure:
    real = found.random.retrained.mean(axis=1)
    counts, edges = np.histogram(real, min(20, max(5, len(real) // 2)))
    own, top = float(found.retrained.mean()), [0, int(counts.max())]
    all_in = np.array([own, 0.0, edges[0], edges[-1]])
    room = 0.04 * np.ptp(all_in)
    bars: Spec = {
        "type": "bar", "x": numbers((edges[1:] + edges[:-1]) / 2), "y": counts,
        "width": numbers(0.97 * np.diff(edges)), "name": f"{len(real)} random orders",
        "tone": REFERENCE, "marker": {"opacity": 0.6},
        "hovertemplate": "%{y} orders<extra></extra>",
    }  # fmt: skip
    spec: Spec = {
        "data": [
            bars,
            line([own, own], top, "order found", "help", width=4),
            line([0, 0], top, "recorded order", "text", "dot"),
        ],
        "layout": {
            "xaxis": {
                **axis("change of the mean loss, after retraining"),
                "range": numbers([all_in.min() - room, all_in.max() + room]),
            },
            "yaxis": axis("orders", top[1]),
            "bargap": 0,
        },
    }
    told = (
        "Change of the mean loss of the queries against the recorded order, after really training "
        "in each order. Left = a lower loss, better. The order found has "
        f"{own:+.3g} (predicted {found.predicted.mean():+.3g}); random ones {real.min():+.3g} to "
        f"{real.max():+.3g}. {found.verdict}"
    )
    return Figure("Curriculum", told, spec, found.to_frame().rename_axis("order"))


def _moved(found: Curriculum, setting: Setting) -> list[Part]:
    """The order found, by where it was recorded where that is known."""
    unit, place = setting.unit, np.arange(len(found.order))
    table = pd.DataFrame({unit: found.order}, pd.Index(place, name="place"))
    told, up, height = f"The {unit} of each place in the order found.", unit, found.order
    notes: list[Part] = []
    if setting.places is None:
        notes.append("Where the order found was recorded is not shown: give run=.")
    else:
        was = recorded_at(setting.places.check(found.change), setting.places.recorded)
        table["recorded at"], height = was, was
        up = "place in the recorded order"
        told += (
            " Above the line: it was recorded later, and is now trained on earlier. Below: it is "
            "now trained on later. On the line: it stays."
        )
    points: Spec = {
        "type": "scatter", "mode": "markers", "x": place, "y": height, "customdata": found.order,
        "name": unit, "tone": "help", "marker": {"size": 8},
        "hovertemplate": f"{unit} %{{customdata}}: place %{{x}}, {up} %{{y}}<extra></extra>",
    }  # fmt: skip
    ends = [0, max(len(place) - 1, 1)]
    lines = [] if setting.places is None else [line(ends, ends, "stays", REFERENCE, "dash")]
    layout = {
        "xaxis": axis("place in the order found", len(place)),
        "yaxis": axis(up, int(np.max(height)) + 1),
        "height": 440,
    }
    return [
        Figure("Order found", told, {"data": [points, *lines], "layout": layout}, table),
        *notes,
    ]


def recorded_at(order: NDArray[np.int64], recorded: NDArray[np.int64]) -> NDArray[np.int64]:
    """The recorded place of the item of each place: of its k-th use for its k-th use."""
    places = np.empty(len(order), dtype=np.int64)
    places[np.argsort(order, kind="stable")] = np.argsort(recorded, kind="stable")
    return places


def _chosen(maps: dict[str, Floats]) -> dict[str, list[Spec]]:
    names = ["mean of the queries", *list(maps)[1:]]
    return {name: [cells(values)] for name, values in zip(names, maps.values(), strict=True)}


def _agreement(found: OrderComparison) -> str:
    slopes = found.agreement.slope
    slope = float(np.nanmean(slopes)) if np.isfinite(slopes).any() else np.nan
    return (
        f"Spearman {_number(found.agreement.mean)}{bracketed(found.interval)}, over "
        f"{found.counted}: 1 = ranks them as real training does, 0 = chance. Slope "
        f"{_number(slope)}: 1 = right size, below 1 = overstated."
    )


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "none"


def _told(calibration: Calibration | None) -> str:
    return f"{calibration or 'none'}."


def _too_large(title: str, values: Floats) -> str:
    n_items, n_places = values.shape
    return (
        f"No {title} of {n_items:,} items at {n_places:,} places: it has more than "
        f"{MOST_ENTRIES:,} entries."
    )
