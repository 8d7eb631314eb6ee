"""Trains small models with the installed XGBoost and keeps its own predictions."""

from pathlib import Path

import numpy as np
import pandas as pd
import xgboost

HERE = Path(__file__).parent
CITIES = ["Bern", "Oslo", "Riga"]
PARAMS = {"max_depth": 2, "eta": 0.4, "lambda": 2.0, "nthread": 1, "tree_method": "hist"}
# Name: objective, target, further parameters, with the column of categories.
MODELS = {
    "binary": ("binary:logistic", "binary", {}, True),
    "softprob": ("multi:softprob", "classes", {"num_class": 3}, False),
    "poisson": ("count:poisson", "count", {}, False),
    "vector": ("reg:squarederror", "two", {"multi_strategy": "multi_output_tree"}, False),
    "forest": (
        "reg:squarederror", "real", {"num_parallel_tree": 2, "colsample_bynode": 0.5}, False,
    ),
    "dart": ("reg:squarederror", "real", {"booster": "dart", "rate_drop": 0.6, "seed": 1}, False),
    "margin": ("reg:pseudohubererror", "real", {"huber_slope": 0.5}, False),
}  # fmt: skip


def draw():
    """Rows, margin and targets; saved, so that no version of NumPy changes them."""
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.normal(size=50).round(2), rng.integers(-2, 3, 50)])
    X[::7, 0] = np.nan
    city = rng.integers(0, 3, 50)
    real = (np.nan_to_num(X[:, 0]) + 0.5 * X[:, 1] + (city == 1) + rng.normal(size=50) / 2).round(3)
    return {
        "X": X, "city": city, "real": real, "binary": (real > 0) * 1.0,
        "margin": rng.normal(size=50).round(2), "classes": np.digitize(real, [-0.5, 0.7]) * 1.0,
        "two": np.column_stack([real, -real * X[:, 1]]).round(3),
        "count": np.round(np.exp(real / 2)),
        "weight": rng.uniform(0.5, 2, 50).round(2),
    }  # fmt: skip


def table_of(rows, with_city):
    table = pd.DataFrame(rows["X"], columns=["a", "b"])
    if with_city:
        table["city"] = pd.Categorical.from_codes(rows["city"], CITIES)
    return table


def main():
    if not (HERE / "rows.npz").exists():
        np.savez_compressed(HERE / "rows.npz", **draw())
    rows, told = np.load(HERE / "rows.npz"), {}
    folder = HERE / xgboost.__version__
    folder.mkdir(exist_ok=True)
    for name, (objective, target, params, with_city) in MODELS.items():
        matrix = xgboost.DMatrix(
            table_of(rows, with_city), rows[target], weight=rows["weight"], enable_categorical=True,
            base_margin=rows["margin"] if name == "margin" else None,
        )  # fmt: skip
        booster = xgboost.train({**PARAMS, "objective": objective, **params}, matrix, 3)
        booster.save_model(folder / f"{name}.{'json' if name == 'binary' else 'ubj'}")
        told[f"{name} raw"] = booster.predict(matrix, output_margin=True)
        told[f"{name} leaf"] = booster.predict(matrix, pred_leaf=True).astype(np.int16)
    np.savez_compressed(folder / "told.npz", **told)


if __name__ == "__main__":
    main()
