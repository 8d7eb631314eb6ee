"""What was measured of a method, out of `benchmarks/results`: tables of Markdown.

The benchmarks' own code turns results into tables; here the lines of one method are taken.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import llm_tables, llm_text, order_tables, tables
from benchmarks.study import report
from docs.generate.methods import METHODS, Method
from tree_influence.methods import METHODS as SHORT_NAMES

RESULTS = Path(tables.__file__).parent / "results"
BESIDE = ("random", "Random", "seed floor", "chance")  # lines that every method is seen beside


@dataclass(frozen=True)
class Table:
    """Figures of several methods.

    Attributes:
        package: Whose methods.
        title: What they are.
        command: What measured them.
        frame: The first column names methods.
    """

    package: str
    title: str
    command: str
    frame: pd.DataFrame

    def of(self, method: Method) -> pd.DataFrame:
        """The lines of one method, and of chance; none where only chance is there."""
        names: Any = self.frame.iloc[:, 0]
        own = names.map(lambda name: belongs(method, name))
        lines: Any = self.frame[own | names.isin(BESIDE)] if own.any() else self.frame[:0]
        return lines.replace("", np.nan).dropna(axis=1, how="all")

    def shown(self, frame: pd.DataFrame) -> str:
        """Some of its lines as Markdown."""
        told = f"**{self.title}** (`{self.command}`)"
        return f"{told}\n\n:::{{container}} measured\n{tables.markdown(frame)}\n:::"


def figures(method: Method) -> str:
    """All tables that have a line of the method."""
    parts = [
        table.shown(lines)
        for table in all_tables()
        if table.package == method.package and len(lines := table.of(method))
    ]
    return "\n\n".join(parts) or "Nothing is measured of it yet."


def overview(title: str) -> str:
    """The tables whose titles begin so, whole."""
    chosen = [table for table in all_tables() if table.title.startswith(title)]
    return "\n\n".join(table.shown(table.frame) for table in chosen)


def beside_others() -> str:
    """What was timed of other tools and of ours in one run."""
    speed, networks = _read("trees.json"), _read("llm_speed.json")
    trees = tables.catboost_table(speed.get("results", []))
    told = pd.DataFrame(networks.get("builds", []))
    shown = [
        Table("", "CatBoost's own importance and ours: seconds", "python -m benchmarks", trees),
        Table("", "Rows of gradients, beside bergson's", "python -m benchmarks.llm_speed", told),
    ]
    machines = [one.get("machine", {}).items() for one in (speed, networks)]
    return "\n\n".join(
        f"{table.shown(table.frame)}\n\nMeasured with: {listed(machine)}."
        for table, machine in zip(shown, machines, strict=True)
        if len(table.frame)
    )


def listed(facts: Iterable[tuple[str, Any]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts)


def belongs(method: Method, name: str) -> bool:
    """Whether results of this name are of the method: of several the first one counts."""
    if name in SHORT_NAMES and method.package == "tree_influence":
        return SHORT_NAMES[name].classes[0] == method.short
    known = [
        alias
        for one in METHODS
        if one.package == method.package
        for alias in (one.short, *one.measured_as)
    ]
    longest = sorted(known, key=len, reverse=True)
    told = re.search(rf"(?<![\w-])({'|'.join(map(re.escape, longest))})\b", name)
    return told is not None and told[1] in (method.short, *method.measured_as)


@cache
def all_tables() -> tuple[Table, ...]:
    """Everything there is, the most telling first."""
    return (*_study(), *_half_subsets(), *_speed(), *_networks(), *_orders())


def _study() -> Iterator[Table]:
    for path in sorted(RESULTS.glob("study_*.json")):
        stored = json.loads(path.read_text(encoding="utf-8"))
        frame, scale = report.to_frame(stored["cells"]), stored["scale"]["name"]
        for title, table in (
            ("mean rank by each measure, 1 = best", report.ranks(frame)),
            ("agreement with retraining", report.correlations(frame)),
            ("loss after the change over that of a random ranking", report.against_chance(frame)),
            ("wrong labels found", report.noise(frame)),
            ("cost of fit and explain, one thread", report.costs(frame)),
        ):
            command = f"python -m benchmarks.study --scale {scale}"
            yield Table("tree_influence", f"Study, {scale}: {title}", command, table)


def _half_subsets() -> Iterator[Table]:
    results = pd.DataFrame(_read("lds.json").get("results", []))
    rows = []
    for name, own in results.groupby("estimator", sort=False) if len(results) else ():
        cells = {
            one["data"]: "{:.2f} [{:.2f}, {:.2f}]".format(one["lds"], *one["interval"])
            for one in own.to_dict("records")
        }
        means: Any = own[["lds", "slope", "fit", "query"]].mean()
        named = {"lds": "mean", "fit": "fit, trainings", "query": "a query, trainings"}
        rows.append({"estimator": name, **cells, **means.rename(named)})
    if rows:
        title, frame = "LDS by data set; mean; slope; costs", pd.DataFrame(rows)
        yield Table("tree_influence", title, "python -m benchmarks.lds", frame)


def _speed() -> Iterator[Table]:
    frame = tables.methods_table(_read("trees.json").get("results", []))
    if len(frame):
        title = "Seconds on one thread, and MiB beyond the data"
        yield Table("tree_influence", title, "python -m benchmarks", frame)


def _networks() -> Iterator[Table]:
    evidence = _read("llm_evidence.json")
    keys = [key.split(" | ")[1] for key in evidence if " | " in key]
    names = [name for name in dict.fromkeys(keys) if name != "seed floor"]
    if names:
        title = "Small models: LDS, LOO and removal; facts: recall and AUC of wrong ones; seconds"
        frame = llm_tables.table(evidence, names)
        yield Table("llm_influence", title, "python -m benchmarks.llm_evidence", frame)
    for name, told in _read("llm_text.json").items():
        title, frame = f"{name}: precision among the first", llm_text.table(told)
        yield Table("llm_influence", title, "python -m benchmarks.llm_text", frame)


def _orders() -> Iterator[Table]:
    results, of = _read("order_evidence.json"), order_tables
    for title, among, cell in (
        (
            "Orders: Spearman [interval], lowest seed; of the mean of queries",
            of.ORDERS,
            of.spearman,
        ),
        ("Orders: slope; MAE; MAE about the mean", of.ORDERS, of.errors),
        ("Orders: costs in retrainings: build; a query; an order; MB", of.ORDERS, of.costs),
        ("Replay: LDS and LOO [interval], lowest seed", of.REPLAYS, of.spearman),
        ("Replay: slope; fit; a query, in trainings", of.REPLAYS, of.replay_costs),
    ):
        frame = of.by_setting(results, among, cell)
        if len(frame):
            yield Table("llm_influence", title, "python -m benchmarks.order_evidence", frame)


def _read(name: str) -> dict[str, Any]:
    """Results by name; none where the file is not there."""
    path = RESULTS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
