"""LOO and LDS of the estimators against real retraining: `python -m benchmarks.fidelity`.

A leave-one-out campaign on a small model of scikit-learn's breast cancer data, and the linear
datamodelling score on the real data set german_credit. Writes results and tables.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import markdown, replace_part
from influence import agreement, leave_one_out, random_subsets
from tree_influence import BoostIn, LeafInfluence, retrainer, trace

HERE = Path(__file__).parent
SEED = 0
N_QUERIES = 40
N_SUBSETS = 100

ESTIMATORS = {
    "BoostIn as published (shrunken leaves)": BoostIn(shrunken_leaves=True),
    "BoostIn": BoostIn(),
    'LeafInfluence(through="self")': LeafInfluence(through="self"),
    "LeafInfluence": LeafInfluence(),
}


def breast_cancer() -> tuple[Any, ...]:
    """Train and query rows of scikit-learn's bundled data: 200 and 40."""
    from sklearn.datasets import load_breast_cancer

    bunch: Any = load_breast_cancer()
    order = np.random.default_rng(SEED).permutation(len(bunch.target))[: 200 + N_QUERIES]
    X, y = bunch.data[order], bunch.target[order]
    return X[:200], y[:200], X[200:], y[200:]


def german_credit() -> tuple[Any, ...]:
    """Train and query rows of german_credit, one-hot encoded: 800 and 40."""
    import sys

    sys.path.insert(0, str(HERE.parent / "datasets"))
    from fetch import fetch  # type: ignore[import-not-found]

    table, target = fetch("german_credit")
    order = np.random.default_rng(SEED).permutation(len(target))[: 800 + N_QUERIES]
    X = pd.get_dummies(table).to_numpy(dtype=float)[order]
    y = (target == target.unique()[0]).to_numpy().astype(int)[order]
    return X[:800], y[:800], X[800:], y[800:]


def study(data: tuple[Any, ...], changes: Any, n_trees: int) -> list[dict[str, Any]]:
    """Agreement of every estimator with the same retrainings of one LightGBM model."""
    from lightgbm import LGBMClassifier

    X, y, X_test, y_test = data
    model = LGBMClassifier(
        n_estimators=n_trees, num_leaves=15, reg_lambda=1.0, min_child_samples=5, n_jobs=1,
        random_state=SEED, deterministic=True, verbose=-1,
    )  # fmt: skip
    run = trace(model.fit(X, y), X, y)
    retrain = retrainer(run, X_test, y_test)
    retrained = {id(change): retrain(change) for change in changes}
    rows = []
    for name, estimator in ESTIMATORS.items():
        influence = estimator.fit(run).explain(X_test, y_test)
        found = agreement(influence.predict, lambda change: retrained[id(change)], changes)
        low, high = found.interval
        rows.append(
            {"method": name, "Spearman": found.mean, "low": low, "high": high,
             "Pearson": float(np.nanmean(found.pearson)),
             "median slope": float(np.nanmedian(found.slope))}
        )  # fmt: skip
    return rows


def main() -> None:
    cancer, credit = breast_cancer(), german_credit()
    results = {
        "LOO, breast cancer, 200 rows, 30 trees": study(cancer, leave_one_out(200), 30),
        f"LDS, german_credit, 800 rows, 50 trees, {N_SUBSETS} half subsets": study(
            credit, random_subsets(800, 0.5, N_SUBSETS, SEED), 50
        ),
    }
    packages = {name: version(name) for name in ("lightgbm", "numpy", "scikit-learn")}
    stored = {"seed": SEED, **packages, "results": results}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "fidelity.json").write_text(json.dumps(stored, indent=1) + "\n")
    told = ", ".join(f"{name} {value}" for name, value in {"seed": SEED, **packages}.items())
    parts = [f"Measured with: {told}; {N_QUERIES} queries each.\n"]
    for title, rows in results.items():
        frame = pd.DataFrame(rows)
        interval = [f"[{a:.3f}, {b:.3f}]" for a, b in zip(frame["low"], frame["high"], strict=True)]
        frame = frame.assign(interval=interval).drop(columns=["low", "high"])
        parts.append(f"### {title}\n\n{markdown(frame)}\n")
    text = "\n".join(parts)
    replace_part(HERE / "README.md", "fidelity", text)
    print(text)


if __name__ == "__main__":
    main()
