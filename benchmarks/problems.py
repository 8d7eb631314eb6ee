"""The models and data that are timed: made once, stored in a folder, loaded by every worker."""

from pathlib import Path

import numpy as np

N_FEATURES = 20
SEED = 0


def make_table(n_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy binary problem with interactions: features (n_rows, 20) and labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows, N_FEATURES)).astype(np.float32).astype(np.float64)
    score = X[:, 0] + X[:, 1] * X[:, 2] + np.sin(2 * X[:, 3]) + 0.5 * X[:, 4] ** 2
    return X, (score + rng.normal(size=n_rows) > 0.5).astype(np.int64)


def make(folder: Path, library: str, n_train: int, n_queries: int, n_trees: int) -> Path:
    """Trains a model of 31 leaves (CatBoost: depth 5) and stores it with its data, in a folder."""
    out = folder / f"{library}-{n_train}-{n_queries}-{n_trees}"
    if out.exists():
        return out
    X, y = make_table(n_train, SEED)
    X_test, y_test = make_table(n_queries, SEED + 1)
    out.mkdir(parents=True)
    np.savez(out / "data.npz", X=X, y=y, X_test=X_test, y_test=y_test)
    np.save(out / "X32.npy", X.astype(np.float32))
    _train(library, X, y, n_trees, out)
    return out


def _train(library: str, X: np.ndarray, y: np.ndarray, n_trees: int, out: Path) -> None:
    if library == "lightgbm":
        import lightgbm

        params = {"objective": "binary", "num_leaves": 31, "verbose": -1, "seed": SEED}
        lightgbm.train(params, lightgbm.Dataset(X, y), n_trees).save_model(out / "model.txt")
    elif library == "xgboost":
        import xgboost

        params = {"objective": "binary:logistic", "max_leaves": 31, "grow_policy": "lossguide"}
        data = xgboost.DMatrix(X, y)
        xgboost.train(params, data, n_trees).save_model(out / "model.json")
    else:
        import catboost

        model = catboost.CatBoostClassifier(
            iterations=n_trees, depth=5, verbose=False, random_seed=SEED, allow_writing_files=False
        )
        model.fit(X, y).save_model(str(out / "model.cbm"))


def load(folder: Path, without: tuple[str, ...] = ()) -> tuple[str, dict[str, np.ndarray]]:
    """Path of the stored model, and its data but for the arrays named in `without`."""
    with np.load(folder / "data.npz") as data:
        kept = {name: data[name] for name in data.files if name not in without}
    return str(next(folder.glob("model.*"))), kept
