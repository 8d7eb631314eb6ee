"""What the commands of `influence order` found, as programs read it; see `influence.cli.document`.

Predictions and real effects are changes of the mean loss of a query.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.run import OptimizerRun
from llm_influence.order.sample_order import Calibration

SIGN = "positive = a worse loss than of the recorded order"


def of_curriculum(run: OptimizerRun, found: Curriculum) -> dict[str, Any]:
    """One record for each order that was trained: the one found, the recorded, random ones."""
    frame = found.to_frame().rename_axis("name").reset_index()
    return {
        **_judged(run, found.random),
        "results": frame.rename(columns={"name": "order"}),
        "order": found.order,
        "rank": found.rank,
    }


def of_comparison(run: OptimizerRun, found: OrderComparison) -> dict[str, Any]:
    """One record for each random order and query."""
    values = {"predicted": found.predicted, "retrained": found.retrained}
    records = _records("order", "query", values)
    return {**_judged(run, found), "results": records, "orders": found.orders}


def of_memorisation(run: OptimizerRun, found: Memorisation) -> dict[str, Any]:
    """One record for each batch and place."""
    values = {"value": found.values}
    if found.generalisation is not None:
        values["generalisation"] = found.generalisation
    sign = "negative = better known than in the mean over the places of an epoch"
    return {
        "provenance": _provenance(run, found.method, sign),
        "results": _records("batch", "place", values),
        "forgetting": found.forgetting,
        "calibration": _calibration(found.calibration),
    }


def _records(row: str, column: str, values: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    """One record for each entry of matrices of one shape."""
    places = np.indices(next(iter(values.values())).shape).reshape(2, -1)
    named = {name: matrix.ravel() for name, matrix in values.items()}
    return pd.DataFrame({row: places[0], column: places[1], **named})


def _judged(run: OptimizerRun, found: OrderComparison) -> dict[str, Any]:
    return {
        "provenance": _provenance(run, found.method, SIGN),
        "agreement": _agreement(found),
        "calibration": _calibration(found.calibration),
    }


def _provenance(run: OptimizerRun, method: str, sign: str) -> dict[str, Any]:
    return {
        "method": method,
        "unit": "loss",
        "sign": sign,
        "fingerprint": run.fingerprint,
        "run": dict(run.provenance),
    }


def _agreement(found: OrderComparison) -> dict[str, Any]:
    """The mean rank correlation, its interval or null of few orders, and measures of each query."""
    each = ("spearman", "pearson", "slope", "mae_over_sd")
    means = {"mean": found.agreement.mean, "interval": found.interval}
    return means | {name: getattr(found.agreement, name) for name in each}


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
