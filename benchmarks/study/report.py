"""Ranks, means and intervals over all cells, as tables and plots."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.study.cells import Cell
from benchmarks.tables import markdown
from tree_influence.methods import CHANCE

RANKED = ("removal", "removal_many", "label_edit", "poisoning", "noise", "lds", "loo")
LOSSES = ("removal", "removal_many", "label_edit", "poisoning")
CORRELATIONS = ("lds", "loo")
RESAMPLES = 1_000
PAIR = ["data", "library"]


def to_frame(cells: Iterable[Cell]) -> pd.DataFrame:
    """One row for each cell that has numbers.

    The value of a curve of losses is its mean over the shares above 0 at which every method's
    change could be trained: one that removes a whole class cannot.
    """
    rows = [
        {**{name: cell[name] for name in (*PAIR, "method", "measure")}, **cell["numbers"]}
        for cell in cells
        if "numbers" in cell
    ]
    compared = ("data", "library", "measure")
    trained: dict[Any, NDArray[np.bool_]] = {}
    for row in rows:
        if row["measure"] in LOSSES:
            key = tuple(row[name] for name in compared)
            usable = (np.array(row["fractions"]) > 0) & np.isfinite(_floats(row["mean"]))
            trained[key] = trained.get(key, np.True_) & usable
    for row in rows:
        if row["measure"] in LOSSES:
            mean = _floats(row["mean"])[trained[tuple(row[name] for name in compared)]]
            row["value"] = mean.mean() if mean.size else np.nan
    columns = [*PAIR, "method", "measure", "value", "base", "seconds", "peak_mib", "roc_auc"]
    return pd.DataFrame(rows, columns=pd.Index(columns))


def ranks(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean rank of each method by each measure, 1 = best; over the pairs that have the measure.

    Returns:
        One row for each method, best mean first; the last column is the mean over the measures.
    """
    known: Any = frame[frame["measure"].isin(RANKED) & frame["value"].notna()]
    place = known.groupby([*PAIR, "measure"])["value"].rank(ascending=False)
    table: Any = known.assign(place=place).pivot_table("place", "method", "measure", aggfunc="mean")
    table = table.reindex(columns=[name for name in RANKED if name in table])
    return table.assign(mean=table.mean(axis=1)).sort_values("mean").reset_index()


def against_chance(frame: pd.DataFrame) -> pd.DataFrame:
    """Loss after the change over the loss after that of a random ranking, by measure.

    A ratio for each pair, (base + value) / (base + value of random), and their geometric mean:
    1 = no better than chance.
    """
    table = {}
    for measure in LOSSES:
        losses: Any = _wide(frame.assign(value=frame["base"] + frame["value"]), measure)
        if CHANCE in losses:
            ratio = losses.div(losses[CHANCE], axis=0)
            table[measure] = np.exp(np.log(ratio.where(ratio > 0)).mean())
    return _by_method(table, LOSSES)


def correlations(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Mean LDS and LOO correlation over the pairs, and 95 % intervals, resampling pairs."""
    table: dict[str, Any] = {}
    for measure in CORRELATIONS:
        values: Any = _wide(frame, measure)
        if not len(values):
            continue
        mean = values.mean()
        ends = {name: _interval(values[name].dropna().to_numpy(), seed) for name in values}
        told = {
            name: "" if np.isnan(low) else f"[{low:.3f}, {high:.3f}]"
            for name, (low, high) in ends.items()
        }
        table |= {measure: mean, f"{measure} interval": pd.Series(told)}
    return _by_method(table, [name for name in ("lds", "loo") if name in table])


def costs(frame: pd.DataFrame) -> pd.DataFrame:
    """Median and largest seconds and MiB of fit and explain."""
    known: Any = frame[frame["measure"] == "cost"]
    found = known.groupby("method")[["seconds", "peak_mib"]]
    median, largest = found.median(), found.max()
    table = {
        "seconds": median["seconds"], "most seconds": largest["seconds"],
        "MiB": median["peak_mib"], "most MiB": largest["peak_mib"],
    }  # fmt: skip
    return pd.DataFrame(table).sort_values("seconds").reset_index()


def noise(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean share of the wrong labels found, and ROC AUC."""
    found: Any = frame[frame["measure"] == "noise"]
    table = found.groupby("method")[["value", "roc_auc"]].mean()
    table = table.rename(columns={"value": "mean recall", "roc_auc": "ROC AUC"})
    return table.sort_values("ROC AUC", ascending=False).reset_index()


def failures(cells: Iterable[Cell]) -> pd.DataFrame:
    """Cells without numbers, those alike in one row."""
    rows = [cell for cell in cells if "error" in cell]
    if not rows:
        return pd.DataFrame()
    frame: Any = pd.DataFrame(rows).assign(cells=1)
    frame["error"] = frame["error"].str.replace("|", "/").str.slice(0, 160)
    joined = {"library": lambda names: ", ".join(sorted(set(names))), "cells": "sum"}
    return frame.groupby(["method", "measure", "error"]).agg(joined).reset_index()


def render(cells: Sequence[Cell]) -> str:
    """All tables as Markdown."""
    frame = to_frame(cells)
    pairs: Any = frame[PAIR].drop_duplicates()
    told = ", ".join(
        f"{name} ({', '.join(group['library'])})" for name, group in pairs.groupby("data")
    )
    parts = [f"Over {len(pairs)} models: {told}.\n"]
    for title, table in (
        ("Mean rank (1 = best)", ranks(frame)),
        ("Loss after the change, relative to a random ranking", against_chance(frame)),
        ("Agreement with retraining", correlations(frame)),
        ("Wrong labels found", noise(frame)),
        ("Cost of fit and explain, one thread", costs(frame)),
        ("Cells without numbers", failures(cells)),
    ):
        if len(table):
            parts.append(f"### {title}\n\n{markdown(table)}\n")
    return "\n".join(parts)


def plots(cells: Sequence[Cell], folder: Path) -> list[Path]:
    """A PNG for each curve: the mean over all pairs, a line for each method."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for measure in (*LOSSES, "noise"):
        curves: dict[str, list[Any]] = {}
        shares: list[float] = []
        for cell in cells:
            if cell["measure"] == measure and "numbers" in cell:
                shares = cell["numbers"]["fractions"]
                curves.setdefault(cell["method"], []).append(cell["numbers"]["mean"])
        if not curves:
            continue
        figure = Figure(figsize=(7, 5))
        axes = figure.subplots()
        for name, listed in curves.items():
            mean = pd.DataFrame(listed, dtype=np.float64).mean()  # leaves out what did not train
            axes.plot(100 * np.array(shares), mean, marker=".", label=name)
        axes.set_xlabel("training rows (%)")
        axes.set_ylabel("wrong labels found" if measure == "noise" else "mean change of loss")
        axes.set_title(measure)
        axes.legend(fontsize="small")
        written.append(folder / f"{measure}.png")
        figure.savefig(written[-1], dpi=120)
    return written


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Numbers out of JSON, which has no NaN."""
    return np.array(values, dtype=np.float64)


def _wide(frame: pd.DataFrame, measure: str) -> pd.DataFrame:
    """Values of one measure: pairs down, methods across."""
    chosen: Any = frame[frame["measure"] == measure]
    return chosen.pivot_table("value", PAIR, "method")


def _by_method(table: dict[str, Any], keys: Sequence[str]) -> pd.DataFrame:
    """A table of methods, the best by the first key on top."""
    frame: Any = pd.DataFrame(table).rename_axis("method")
    first = next((key for key in keys if key in frame), None)
    ordered = frame if first is None else frame.sort_values(first, ascending=False)
    return ordered.reset_index()


def _interval(values: NDArray[np.float64], seed: int) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
