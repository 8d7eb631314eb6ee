"""Times everything; writes results as JSON and the tables of benchmarks/README.md."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import problems, tables

HERE = Path(__file__).parent
PACKAGES = ("numpy", "numba", "scipy", "lightgbm", "xgboost", "catboost")


def cases(quick: bool) -> list[dict[str, Any]]:
    """Every measurement: what, on which problem, on how many threads."""
    rows = [2_000, 5_000] if quick else [20_000, 100_000]
    queries = [20] if quick else [100, 1000]
    many = os.cpu_count() or 1
    listed = []

    def add(
        table: str, name: str, library: str, n: int, q: int, t: int = 100, along: str = "",
        on: tuple[int, ...] = (1, many),
    ) -> None:  # fmt: skip
        for threads in on:
            listed.append(
                {"table": table, "name": name, "library": library, "n_train": n,
                 "n_queries": q, "n_trees": t, "threads": threads, "along": along}
            )  # fmt: skip

    for n in rows:
        for q in queries:
            add("explain", "BoostIn", "lightgbm", n, q)
            add("explain", "LeafInfluence", "lightgbm", n, q)
            add("explain", "floor.scipy" if q == queries[0] else "floor", "lightgbm", n, q)
    for name in ("BoostIn", "LeafInfluence", "SplitInfluence", "TREX", "TreeSim",
                 "InputSimilarity"):  # fmt: skip
        add("methods", name, "lightgbm", rows[0], queries[0], on=(1,))
    add("methods", "LeafRefit", "lightgbm", rows[1], queries[0], on=(1,))
    for library in ("lightgbm", "xgboost", "catboost"):
        add("leaf_ids", "leaf_ids", library, rows[1], queries[0])
    for library in ("lightgbm", "xgboost"):
        large = 4_000 if quick else 2_000_000
        add("memory", "float32", library, large, queries[0], 20, on=(many,))
    few = 2 if quick else 10
    for name in ("BoostIn", "LeafInfluence", "catboost.SinglePoint"):
        add("catboost", name, "catboost", rows[0], few)
    add("catboost", "catboost.AllPoints", "catboost", rows[0], few, on=(1,))  # O(n^2): minutes
    for name in ("BoostIn.top", "LeafInfluence.top"):
        for n in [1_000, 4_000] if quick else [10_000, 100_000, 1_000_000]:
            add("growth", name, "lightgbm", n, queries[0], along="rows")
        for t in [20, 40] if quick else [25, 100, 400]:
            add("growth", name, "lightgbm", rows[0], queries[0], t, along="trees")
        for q in [10, 40] if quick else [10, 100, 1000]:
            add("growth", name, "lightgbm", rows[0], q, along="queries")
    return listed


def measure(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Runs one case in a process of its own, on the threads it names."""
    shape = (case["library"], case["n_train"], case["n_queries"], case["n_trees"])
    stored = problems.make(folder, *shape)
    threads = str(case["threads"])
    limits = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    command = [sys.executable, "-m", "benchmarks.worker", case["name"], str(stored), threads]
    environment = {**os.environ, **dict.fromkeys(limits, threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return {**case, "result": json.loads(done.stdout.splitlines()[-1])}


def _version(package: str) -> str:
    return str(importlib.import_module(package).__version__)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, nothing written")
    parser.add_argument(
        "--only", metavar="TABLE", help="explain, methods, leaf_ids, memory, catboost or growth"
    )
    args = parser.parse_args()
    machine = {
        "processor": platform.machine(), "cores": os.cpu_count(),
        "python": platform.python_version(), "seed": problems.SEED,
        **{package: _version(package) for package in PACKAGES},
    }  # fmt: skip
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases(args.quick):
            if args.only in (None, case["table"]):
                results.append(measure(case, Path(folder)))
                print(json.dumps(results[-1]), flush=True)
    if args.quick:
        print(tables.render(results))
        return
    path = HERE / "results" / "trees.json"
    path.parent.mkdir(exist_ok=True)
    kept = json.loads(path.read_text())["results"] if args.only and path.exists() else []
    kept = [case for case in kept if case["table"] != args.only]
    stored = {"machine": machine, "results": kept + results}
    path.write_text(json.dumps(stored, indent=1) + "\n")
    tables.write(HERE / "README.md", stored)


if __name__ == "__main__":
    main()
