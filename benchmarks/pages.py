"""A report page of many queries about many training rows: its cost beside `explain_top`.

    python -m benchmarks.pages                       # a million rows, 2,000 queries; minutes
    python -m benchmarks.pages --rows 20000 --queries 200

A LightGBM model of 20 trees on made-up rows of 10 features; BoostIn; one process. "beyond plotly"
is what the page holds besides the library that draws its charts. "opened" and "next query" are
measured in headless Chromium: until the first query is shown, and from a key to the next one; they
are empty where there is none. The floor of the page is explaining all queries once.
Writes benchmarks/results/pages.json and the table of benchmarks/README.md.
"""

import argparse
import json
import resource
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import markdown, replace_part
from tree_influence import BoostIn, report, trace

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "pages.json"
PACKAGES = ("numpy", "lightgbm", "plotly", "playwright")
NEXT = """() => {
  const begun = performance.now();
  document.dispatchEvent(new KeyboardEvent("keydown", { key: "j", bubbles: true }));
  return (performance.now() - begun) / 1000;
}"""


def measured(n_rows: int, n_queries: int, seed: int) -> dict[str, Any]:
    """Seconds, sizes in MB, and the largest memory of the process in GB."""
    from lightgbm import LGBMClassifier
    from plotly.offline import get_plotlyjs

    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n_rows + n_queries, 10)).astype(np.float32)
    y = (X[:, 0] + X[:, 1] * X[:, 2] + rng.normal(size=len(X)) > 0).astype(int)
    model = LGBMClassifier(n_estimators=20, verbose=-1).fit(X[:n_rows], y[:n_rows])
    estimator = BoostIn().fit(trace(model, X[:n_rows], y[:n_rows]))
    asked = X[n_rows:], y[n_rows:]
    estimator.explain_top(X[n_rows : n_rows + 1], y[n_rows : n_rows + 1])  # compiles
    ranking = seconds(lambda: estimator.explain_top(*asked, progress=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "page.html"
        making = seconds(lambda: report(path, estimator, *asked, progress=False))
        size = path.stat().st_size
        browsed = in_browser(path)
    return {
        "rows": n_rows, "queries": n_queries, "explain_top": ranking, "report": making,
        "report / explain_top": making / ranking, "page": size / 1e6,
        "beyond plotly": (size - len(get_plotlyjs().encode())) / 1e6, **browsed,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def seconds(work: Any) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_browser(path: Path) -> dict[str, float | None]:
    """Seconds until a page shows its first query, and until the next one."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return {"opened": None, "next query": None}
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(path.as_uri())
        page.wait_for_selector(".detail h2")
        opened = page.evaluate("performance.now() / 1000")
        found = {"opened": opened, "next query": page.evaluate(NEXT)}
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = measured(args.rows, args.queries, args.seed)
    versions = {name: version(name) for name in PACKAGES}
    RESULTS.write_text(json.dumps({"versions": versions, "result": result}, indent=1) + "\n")
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    table = markdown(pd.DataFrame([result]))
    replace_part(
        HERE / "README.md", "pages", f"Measured with: {told}; seed {args.seed}.\n\n{table}"
    )


if __name__ == "__main__":
    main()
