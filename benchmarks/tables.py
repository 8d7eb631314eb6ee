"""Turns the results into the tables of benchmarks/README.md."""

from pathlib import Path
from typing import Any

import pandas as pd


def replace_part(path: Path, name: str, body: str) -> None:
    """Replaces what stands between the page's `name: begin` and `name: end` comments."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = path.read_text()
    before, after = text.split(begin)[0], text.split(end)[1]
    path.write_text(f"{before}{begin}\n\n{body}\n{end}{after}")


def write(path: Path, stored: dict[str, Any]) -> None:
    """Rewrites the tables of speed."""
    machine = ", ".join(f"{name} {value}" for name, value in stored["machine"].items())
    body = f"Measured with: {machine}.\n\n{render(stored['results'])}"
    replace_part(path, "generated", body)


def render(results: list[dict[str, Any]]) -> str:
    parts = []
    for title, make in (
        ("Explaining: seconds", explain_table),
        ("All methods on one thread: seconds", methods_table),
        ("Leaf ids: seconds", leaf_table),
        ("Tracing a float32 table", memory_table),
        ("Against CatBoost's own object importance: seconds", catboost_table),
        ("Growth, top 10 of each query: seconds", growth_table),
    ):
        frame = make(results)
        if len(frame):
            parts.append(f"### {title}\n\n{markdown(frame)}\n")
    return "\n".join(parts)


def explain_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    cases = [case for case in results if case["table"] == "explain"]
    rows = {}
    for case in cases:
        key = (case["n_train"], case["n_queries"], case["threads"])
        row = rows.setdefault(key, dict(zip(("rows", "queries", "threads"), key, strict=True)))
        result = case["result"]
        if case["name"].startswith("floor"):
            row["plain loop"] = result["plain loop"]["wall"]
            row["scipy sparse"] = result.get("scipy sparse", {}).get("wall")
            continue
        name = case["name"]
        if name == "BoostIn":
            row["trace"] = result["trace"]["wall"]
        row[f"{name} fit"] = result["fit"]["wall"]
        row[f"{name} explain"] = result["explain"]["wall"]
        row[f"{name} explain, CPU"] = result["explain"]["cpu"]
        row[f"{name} MiB"] = result["memory"]["beyond_data_mib"]
    for row in rows.values():
        if {"plain loop", "BoostIn explain", "LeafInfluence explain"} <= set(row):
            row["BoostIn / plain loop"] = row["BoostIn explain"] / row["plain loop"]
            row["LeafInfluence / BoostIn"] = row["LeafInfluence explain"] / row["BoostIn explain"]
    return pd.DataFrame(rows.values())


def methods_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Fit and explain of every method; of LeafRefit one change, a group of 100 rows."""
    rows = [
        {"method": case["name"], "rows": case["n_train"], "trees": case["n_trees"],
         "queries": case["n_queries"], "fit": case["result"]["fit"]["wall"],
         "explain": case["result"]["explain"]["wall"],
         "both, CPU": sum(case["result"][part]["cpu"] for part in ("fit", "explain")),
         "MiB": case["result"]["memory"]["beyond_data_mib"]}
        for case in results if case["table"] == "methods"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def leaf_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    rows = []
    for case in results:
        if case["table"] == "leaf_ids":
            ours, library = (case["result"][side]["wall"] for side in ("ours", "library"))
            rows.append(
                {"library": case["library"], "rows": case["n_train"], "trees": case["n_trees"],
                 "threads": case["threads"], "ours": ours, "library's own": library,
                 "ours / own": ours / library}
            )  # fmt: skip
    return pd.DataFrame(rows)


def memory_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    """Memory that `trace` needs, beside what a float64 copy of the table would take alone."""
    rows = [
        {"library": case["library"], "rows": case["n_train"], "trees": case["n_trees"],
         "seconds": case["result"]["trace"]["wall"],
         "MiB beyond the table": case["result"]["beyond_mib"],
         "a float64 copy, MiB": 2 * case["result"]["table_mib"]}
        for case in results if case["table"] == "memory"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def catboost_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {"method": case["name"], "rows": case["n_train"], "queries": case["n_queries"],
         "threads": case["threads"], "explain": case["result"]["explain"]["wall"],
         "MiB": case["result"]["memory"]["beyond_data_mib"]}
        for case in results if case["table"] == "catboost"
    ]  # fmt: skip
    frame: Any = pd.DataFrame(rows)
    if len(frame):
        sweep = frame[frame["method"] == "LeafInfluence"].set_index("threads")["explain"]
        frame["times LeafInfluence"] = frame["explain"] / frame["threads"].map(sweep)
    return frame


def growth_table(results: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {"along": case["along"], "method": case["name"].partition(".")[0],
         "rows": case["n_train"], "queries": case["n_queries"], "trees": case["n_trees"],
         "threads": case["threads"], "trace": case["result"]["trace"]["wall"],
         "fit": case["result"]["fit"]["wall"], "explain_top": case["result"]["explain"]["wall"],
         "peak MiB": case["result"]["memory"]["peak_mib"]}
        for case in results if case["table"] == "growth"
    ]  # fmt: skip
    return pd.DataFrame(rows)


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table with numbers of three significant digits."""
    lines = ["| " + " | ".join(frame.columns) + " |", "|" + "---|" * len(frame.columns)]
    for _, row in frame.iterrows():
        lines.append("| " + " | ".join(_cell(value) for value in row) + " |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return ""
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
