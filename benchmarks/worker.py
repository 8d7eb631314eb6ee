"""Times one thing in a process of its own: `python -m benchmarks.worker NAME FOLDER THREADS`.

Prints one JSON object: for each phase wall seconds and CPU seconds, and the peak memory of the
process, in all and beyond what it held when the tables were loaded.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, problems

REPEATS = 3


def peak_mib() -> float:
    """Peak memory of this process.

    The kernel's mark of the program itself where there is one: getrusage starts a program at what
    the process that launched it held.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        unit = 2**20 if sys.platform == "darwin" else 1024  # there in bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    marks = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(marks["VmHWM"].split()[0]) / 1024


def timed(work: Callable[[], Any], repeats: int = REPEATS) -> dict[str, float]:
    """Best wall time of a few runs, and the CPU time of that run."""
    best = {"wall": float("inf"), "cpu": 0.0}
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        wall = time.perf_counter() - wall
        if wall < best["wall"]:
            best = {"wall": wall, "cpu": time.process_time() - cpu}
    return best


def estimator(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """trace, fit and explain (or explain_top) of one of our estimators."""
    import tree_influence
    from tree_influence import trace

    method, _, how = name.partition(".")
    make = getattr(tree_influence, method)
    asked = data["X_test"], data["y_test"]
    run = trace(path, data["X"], data["y"])
    fitted = make().fit(run)
    explain = fitted.explain_top if how == "top" else fitted.explain
    explain(asked[0][:3], asked[1][:3])  # warms up the JIT
    return {
        "trace": timed(lambda: trace(path, data["X"], data["y"]), 1),
        "fit": timed(lambda: make().fit(run), 1),
        "explain": timed(lambda: explain(*asked), 1 if how == "top" else REPEATS),
    }


def group(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """LeafRefit without a group of 100 rows, and the library's training of the same model."""
    from influence import Without
    from tree_influence import LeafRefit, trace
    from tree_influence.retrain import Retrained

    run = trace(path, data["X"], data["y"])
    asked = data["X_test"], data["y_test"]
    rows = np.random.default_rng(0).permutation(run.n_train)[:100]
    fitted = LeafRefit().fit(run)
    fitted.predict(Without(rows), *asked)  # warms up the JIT
    return {
        "fit": timed(lambda: LeafRefit().fit(run), 1),
        "explain": timed(lambda: fitted.predict(Without(rows), *asked)),
        "training": timed(lambda: Retrained.after(Without(rows), run), 1),
    }


def floor(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """BoostIn's sums by the plain loop and by scipy, with the factors already made."""
    from tree_influence import BoostIn, trace
    from tree_influence.kernels import TILE

    run = trace(path, data["X"], data["y"])
    fitted = BoostIn().fit(run)
    queries = run.queries(data["X_test"], data["y_test"])
    ((factor, query),) = fitted._pairs(queries)
    tile = np.arange(run.n_train) // TILE * TILE
    values = np.empty((len(run.leaves), run.n_train))
    for t in range(len(run.leaves)):
        values[t, factor.order[t] + tile] = factor.value[t, :, 0]
    coefficient = query.coefficient[:, :, 0].copy()
    sorted_rows = peers.sort_rows(run.leaves, values)
    out = np.zeros((queries.n_queries, run.n_train))

    def plain() -> None:
        peers.plain_additions(*sorted_rows, query.leaf, coefficient, out)

    plain()
    ours = fitted.explain(data["X_test"], data["y_test"]).values
    out[:] = 0
    plain()
    np.testing.assert_allclose(out.T, ours, atol=1e-9 * np.abs(ours).max())
    result = {"plain loop": timed(plain)}
    if name == "floor.scipy":
        sparse = (run.leaves, values, query.leaf, coefficient)
        result["scipy sparse"] = timed(lambda: peers.scipy_sparse(*sparse), 1)
    return result


def leaf_ids(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """Leaf numbers of all training rows: ours and the library's own."""
    from tree_influence import adapters

    model = adapters.load(path)
    adapter = adapters.parse(model)
    X = data["X"]
    features = adapter.features(X)
    adapter.leaves(features)
    own = _own_leaves(model, X, threads)
    return {"ours": timed(lambda: adapter.leaves(features)), "library": timed(own)}


def _own_leaves(model: Any, X: np.ndarray, threads: int) -> Callable[[], Any]:
    library = type(model).__module__.split(".")[0]
    if library == "lightgbm":
        return lambda: model.predict(X, pred_leaf=True, num_threads=threads)
    if library == "xgboost":
        import xgboost

        model.set_param({"nthread": threads})
        matrix = xgboost.DMatrix(X, nthread=threads)
        return lambda: model.predict(matrix, pred_leaf=True)
    return lambda: model.calc_leaf_indexes(X, thread_count=threads)


def catboost(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """CatBoost's own object importance of the training rows."""
    from catboost import CatBoost, Pool

    model = CatBoost().load_model(path)
    train, asked = Pool(data["X"], data["y"]), Pool(data["X_test"], data["y_test"])
    update = name.partition(".")[2]

    def importance() -> None:
        model.get_object_importance(
            asked, train, type="PerObject", update_method=update, thread_count=threads
        )

    return {"explain": timed(importance, 1)}


def float32(name: str, path: str, data: dict[str, np.ndarray], threads: int) -> dict[str, Any]:
    """trace on a float32 table, and its memory beyond the table and the loaded libraries."""
    from tree_influence import adapters, trace

    table, y = np.load(Path(path).parent / "X32.npy"), data["y"]
    adapter = adapters.parse(adapters.load(path))
    adapter.leaves(adapter.features(table[:1000]))  # loads the library, warms up the JIT
    before = peak_mib()
    took = timed(lambda: trace(path, table, y), 1)
    beyond = peak_mib() - before
    return {"trace": took, "table_mib": table.nbytes / 2**20, "beyond_mib": beyond}


JOBS = {
    "float32": float32,
    "BoostIn": estimator,
    "LeafInfluence": estimator,
    "SplitInfluence": estimator,
    "TREX": estimator,
    "TreeSim": estimator,
    "InputSimilarity": estimator,
    "LeafRefit": group,
    "floor": floor,
    "leaf_ids": leaf_ids,
    "catboost": catboost,
}


def main() -> None:
    name, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    path, data = problems.load(folder, without=("X",) if name == "float32" else ())
    before = peak_mib()
    result = JOBS[name.partition(".")[0]](name, path, data, threads)
    peak = peak_mib()
    result["memory"] = {"peak_mib": peak, "beyond_data_mib": peak - before}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
