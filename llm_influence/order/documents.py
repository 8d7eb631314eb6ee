"""What the commands of `influence order` found, as programs read it; see `influence.cli.document`.

Predictions and real effects are changes of the mean loss of a query.
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from influence.evaluate import Agreement
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
    n_orders, n_queries = found.predicted.shape
    frame = {
        "order": np.repeat(np.arange(n_orders), n_queries),
        "query": np.tile(np.arange(n_queries), n_orders),
        "predicted": found.predicted.ravel(),
        "retrained": found.retrained.ravel(),
    }
    return {**_judged(run, found), "results": pd.DataFrame(frame), "orders": found.orders}


def of_memorisation(run: OptimizerRun, found: Memorisation) -> dict[str, Any]:
    """One record for each batch and place."""
    n_batches, n_places = found.values.shape
    frame = {
        "batch": np.repeat(np.arange(n_batches), n_places),
        "place": np.tile(np.arange(n_places), n_batches),
        "value": found.values.ravel(),
    }
    if found.generalisation is not None:
        frame["generalisation"] = found.generalisation.ravel()
    sign = "negative = better known than in the mean over the places of an epoch"
    return {
        "provenance": _provenance(run, found.method, sign),
        "results": pd.DataFrame(frame),
        "forgetting": found.forgetting,
        "calibration": _calibration(found.calibration),
    }


def _judged(run: OptimizerRun, found: OrderComparison) -> dict[str, Any]:
    return {
        "provenance": _provenance(run, found.method, SIGN),
        "agreement": _agreement(found.agreement),
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


def _agreement(found: Agreement) -> dict[str, Any]:
    """The mean rank correlation with its interval, and measures of each query."""
    each = ("spearman", "pearson", "slope", "mae_over_sd")
    means = {"mean": found.mean, "interval": found.interval}
    return means | {name: getattr(found, name) for name in each}


def _calibration(found: Calibration | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)
