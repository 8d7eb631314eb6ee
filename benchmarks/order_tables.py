"""Turns the evidence on recorded trainings into tables.

python -m benchmarks.order_tables       # of what is measured so far
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.order_problems import ORDERS, REPLAYS, Setting
from benchmarks.tables import markdown, replace_part

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "order_evidence.json"

Measured = dict[str, Any]
Cell = Callable[[list[Measured]], str]


def write(results: dict[str, Any]) -> None:
    """Rewrites the tables of benchmarks/README.md."""
    replace_part(HERE / "README.md", "order evidence", page(results))


def page(results: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    parts = [f"Measured with: {versions}, Python {sys.version.split()[0]}, one thread."]
    for title, frame in (
        ("Settings", settings(results)),
        (
            "Spearman [interval], lowest seed; of the mean of the queries",
            by_setting(results, ORDERS, spearman),
        ),
        ("Slope; MAE; MAE about the mean", by_setting(results, ORDERS, errors)),
        ("Costs in retrainings: build; a query; an order; MB", by_setting(results, ORDERS, costs)),
        ("Memorisation and curriculum", found(results)),
        ("Replay: LDS and LOO [interval], lowest seed", by_setting(results, REPLAYS, spearman)),
        ("Replay: slope; fit; a query, in trainings", by_setting(results, REPLAYS, replay_costs)),
    ):
        if len(frame):
            parts.append(f"**{title}**\n\n{markdown(frame)}")
    return "\n\n".join(parts)


def methods(results: dict[str, Any], among: dict[str, Setting]) -> list[str]:
    """What was judged, in the order it was."""
    told = (key.split(" | ") for key in results)
    return list(dict.fromkeys(name for s, _, name in told if s in among and name != "real"))


def of_seeds(results: dict[str, Any], setting: str, name: str) -> list[Measured]:
    """What each seed gave; nothing of one that was left out."""
    told = [(key.split(" | "), one) for key, one in results.items()]
    return [one for key, one in told if one and (key[0], key[2]) == (setting, name)]


def mean(told: list[Measured], key: str) -> float:
    return float(np.mean([one[key] for one in told]))


def settings(results: dict[str, Any]) -> pd.DataFrame:
    lines = []
    for setting in ORDERS:
        told = of_seeds(results, setting, "real")
        if told:
            line = {"setting": setting, "what": shown(ORDERS[setting]), "seeds": len(told)}
            names = ("parameters", "steps", "loss", "sd", "seconds")
            line |= {name: mean(told, name) for name in names}
            lines.append(line | {"MAE of the mean over orders": mean(told, "floor")})
    return pd.DataFrame(lines)


def shown(setting: Setting) -> str:
    """What of a setting is not as in the base setting."""
    base = vars(Setting())
    other = {k: v for k, v in vars(setting).items() if v != base[k]}
    return ", ".join(f"{k}={v}" for k, v in other.items()) or "base"


def by_setting(results: dict[str, Any], among: dict[str, Setting], cell: Cell) -> pd.DataFrame:
    """One line for each method, one column for each setting."""
    lines = []
    for name in methods(results, among):
        told = {s: of_seeds(results, s, name) for s in among}
        lines.append({"method": name} | {s: tidied(one, cell) for s, one in told.items() if one})
    columns = ["method", *(s for s in among if any(s in line for line in lines))]
    return pd.DataFrame(lines, columns=columns) if lines else pd.DataFrame()


def tidied(told: list[Measured], cell: Cell) -> str:
    """The cell of the seeds that could be asked."""
    able = [one for one in told if "failed" not in one]
    failed = f"{len(told) - len(able)} of {len(told)} failed" if len(able) < len(told) else ""
    return "; ".join(filter(None, (cell(able) if able else "", failed)))


def spearman(told: list[Measured]) -> str:
    low, high = np.mean([one["interval"] for one in told], axis=0)
    lowest = min(one["spearman"] for one in told)
    figure = f"{mean(told, 'spearman'):.3f} [{low:.2f}, {high:.2f}]"
    figure += f", {lowest:.3f}" if len(told) > 1 else ""
    return figure + (f"; {mean(told, 'of mean'):.3f}" if "of mean" in told[0] else "")


def errors(told: list[Measured]) -> str:
    return "; ".join(f"{mean(told, key):.2f}" for key in ("slope", "mae", "about mean"))


def costs(told: list[Measured]) -> str:
    taken = "; ".join(f"{mean(told, key):.2g}" for key in ("build", "query", "order"))
    n_bytes = mean(told, "bytes")
    return taken + f"; {n_bytes / 1e6:.2g}" * (n_bytes > 0)


def replay_costs(told: list[Measured]) -> str:
    return "; ".join(f"{mean(told, key):.2g}" for key in ("slope", "fit", "query"))


def found(results: dict[str, Any]) -> pd.DataFrame:
    """Memorisation, and the orders found beside the random ones, in thousandths of a nat."""
    lines = []
    for setting in ORDERS:
        real = of_seeds(results, setting, "real")
        for name in methods(results, ORDERS) if real else ():
            told = of_seeds(results, setting, name)
            if len(told) < len(real) or not all("found" in one for one in told):
                continue
            beaten = [one["found"] < other["best"] for one, other in zip(told, real, strict=True)]
            lines.append(
                {
                    "setting": setting, "method": name,
                    "memorisation": mean(told, "memorisation") if "memorisation" in told[0] else "",
                    "found": 1e3 * mean(told, "found"), "best of 30": 1e3 * mean(real, "best"),
                    "mean of 30": 1e3 * mean(real, "mean"),
                    "beats all": f"{sum(beaten)} of {len(beaten)}",
                    "search, retrainings": mean(told, "search"),
                }
            )  # fmt: skip
    return pd.DataFrame(lines)


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text()))
