"""LDS and removal of the estimators, on real tables and real retrainings.

    INFLUENCE_DATA=/path/to/data python -m benchmarks.lds --data german_credit compas concrete

Of every query, the Spearman correlation over random half subsets of the training rows between the
predicted and the retrained change of its loss; the mean over queries, with a bootstrap interval
over subsets and queries. Removal: the mean change of a query's loss after its own first 2 and 5 %
of the rows are removed. The models are LightGBM's, with one-hot categories, at most 5,000 rows,
80 % of them for training, learning rate .1, L2 1 and 5 rows a leaf. Costs are CPU times in units of
one training. Writes results and the table of benchmarks/README.md.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.tables import markdown, replace_part
from influence.base import Attributor
from influence.campaign import Campaign
from influence.change import random_subsets
from influence.evaluate import compare
from influence.removal import removal_curve
from tree_influence.averaged import Averaged
from tree_influence.boostin import BoostIn
from tree_influence.leaf_influence import LeafInfluence
from tree_influence.retrain import retrainer
from tree_influence.run import TreeRun, trace
from tree_influence.split_influence import SplitInfluence
from tree_influence.tree_sim import TreeSim
from tree_influence.trex import TREX

HERE = Path(__file__).parent
Floats = NDArray[np.float64]

MOST_ROWS = 5_000
SEED = 1  # of the half subsets
REMOVED = (0.02, 0.05)
# Data set: number of trees, leaves a tree, and whether the target is a number.
SETTINGS = {
    "german_credit": (50, 15, False),
    "compas": (50, 15, False),
    "credit_card": (100, 31, False),
    "spambase": (100, 31, False),
    "concrete": (100, 15, True),
}
ESTIMATORS: dict[str, Callable[[int], Attributor[Any, Any]]] = {
    "BoostIn, as published": lambda k: BoostIn(shrunken_leaves=True),
    "BoostIn": lambda k: BoostIn(),
    "LeafInfluence": lambda k: LeafInfluence(),
    "SplitInfluence": lambda k: SplitInfluence(),
    "TREX": lambda k: TREX(min_fidelity=-99),
    "TreeSim": lambda k: TreeSim(),
    "Averaged BoostIn": lambda k: Averaged(BoostIn(), k),
    "Averaged LeafInfluence": lambda k: Averaged(LeafInfluence(), k),
    "Averaged SplitInfluence, 5 models": lambda k: Averaged(SplitInfluence(), min(k, 5)),
    "Averaged SplitInfluence": lambda k: Averaged(SplitInfluence(), k),
}


def load(name: str, n_queries: int) -> tuple[TreeRun, tuple[Floats, Floats], float]:
    """A traced model, its queries, and the seconds its training took."""
    sys.path.insert(0, str(HERE.parent / "datasets"))
    import lightgbm

    from fetch import fetch

    X, y = fetch(name)
    order = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
    n_trees, n_leaves, numeric = SETTINGS[name]
    features = pd.get_dummies(X).to_numpy(dtype=np.float64)[order]
    target = y.to_numpy()[order]
    if numeric:
        target = (target - target.mean()) / target.std()
    else:
        target = (target == target[0]).astype(int)
    n_train = int(0.8 * len(target))
    kind = lightgbm.LGBMRegressor if numeric else lightgbm.LGBMClassifier
    model = kind(
        n_estimators=n_trees, num_leaves=n_leaves, learning_rate=0.1, reg_lambda=1.0,
        min_child_samples=5, boost_from_average=False, deterministic=True, n_jobs=1, verbose=-1,
    )  # fmt: skip
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        model.fit(features[:n_train], target[:n_train])
        seconds.append(time.process_time() - begun)
    queries = slice(n_train, n_train + n_queries)
    run = trace(model, features[:n_train], target[:n_train])
    return run, (features[queries], target[queries]), min(seconds)


def measure(name: str, n_subsets: int, n_queries: int, n_models: int, cache: Path) -> list[Any]:
    """One result for each estimator."""
    run, queries, training = load(name, n_queries)
    halves = random_subsets(run.n_train, 0.5, n_subsets, seed=SEED)
    retrain = Campaign(retrainer(run, *queries), cache, progress=False)
    effects = retrain.effects(halves)
    results = []
    for label, make in ESTIMATORS.items():
        make(2).fit(run).explain(*(part[:2] for part in queries))  # compiles
        begun = time.process_time()
        estimator = make(n_models).fit(run)
        fitted = time.process_time()
        values = estimator.explain(*queries, progress=False)
        ended = time.process_time()
        predicted = np.stack([values.predict(half) for half in halves])
        judged = compare(predicted, effects)
        removal = removal_curve(values, retrain, REMOVED).mean.tolist()
        results.append(
            {
                "data": name, "estimator": label, "lds": judged.mean, "interval": judged.interval,
                "slope": float(np.nanmedian(judged.slope)), "removal": removal,
                "fit": (fitted - begun) / training,
                "query": (ended - fitted) / training / len(queries[1]),
            }
        )  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    return results


def table(results: list[Any]) -> str:
    """LDS by data set, and mean costs."""
    rows = []
    for label, own in _by_estimator(results):
        row: dict[str, Any] = {"estimator": label}
        for result in own:
            low, high = result["interval"]
            row[result["data"]] = f"{result['lds']:.3f} [{low:.2f}, {high:.2f}]"
        row["mean"] = f"{np.mean([result['lds'] for result in own]):.3f}"
        row["slope"] = f"{np.mean([result['slope'] for result in own]):.2g}"
        row["fit, trainings"] = f"{np.mean([result['fit'] for result in own]):.2g}"
        row["a query, trainings"] = f"{np.mean([result['query'] for result in own]):.2g}"
        rows.append(row)
    return markdown(pd.DataFrame(rows))


def removal_table(results: list[Any]) -> str:
    """Mean change of loss by data set, and the mean rank among the estimators."""
    ranks = pd.DataFrame(
        {
            label: [share for result in own for share in result["removal"]]
            for label, own in _by_estimator(results)
        }
    ).rank(axis=1, ascending=False)
    rows = []
    for label, own in _by_estimator(results):
        row: dict[str, Any] = {"estimator": label}
        for result in own:
            row[result["data"]] = " / ".join(f"{change:.3f}" for change in result["removal"])
        rows.append(row | {"mean rank": f"{ranks[label].mean():.1f}"})
    return markdown(pd.DataFrame(rows))


def _by_estimator(results: list[Any]) -> list[tuple[str, list[Any]]]:
    return [
        (label, [result for result in results if result["estimator"] == label])
        for label in ESTIMATORS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lds", description=__doc__)
    parser.add_argument("--data", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--subsets", type=int, default=40, help="half subsets retrained")
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--models", type=int, default=20, help="models that are averaged")
    parser.add_argument("--cache", type=Path, default=Path("lds-cache"), help="retrained losses")
    args = parser.parse_args()
    results = [
        result
        for name in args.data
        for result in measure(name, args.subsets, args.queries, args.models, args.cache)
    ]
    packages = {name: version(name) for name in ("numpy", "numba", "lightgbm")}
    asked = {"subsets": args.subsets, "queries": args.queries, "models": args.models}
    stored = {"seed": SEED, **asked, **packages, "results": results}
    (HERE / "results" / "lds.json").write_text(json.dumps(stored, indent=1) + "\n")
    stated = ", ".join(
        f"{name} {value}" for name, value in {"seed": SEED, **asked, **packages}.items()
    )
    body = (
        f"Measured with: {stated}.\n\n{table(results)}\n\n"
        f"Removal of 2 and of 5 %: mean change of loss.\n\n{removal_table(results)}\n"
    )
    replace_part(HERE / "README.md", "lds", body)


if __name__ == "__main__":
    main()
