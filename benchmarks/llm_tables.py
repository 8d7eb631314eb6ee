"""Turns the evidence on language models into tables."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.tables import markdown, replace_part

HERE = Path(__file__).parent

# Settings judged by half subsets; the mean is over all but the last, which has few of them.
SUBSETS = ["gpt2", "gpt2-seed-1", "gpt2-low-rate", "gpt2-cold", "gpt2-wide", "llama", "gpt2-1m"]
ALONE = "gpt2-loo"
REMOVED = (0.01, 0.05)

# The table of methods of README.md: what is shown, what it is, the entry that is measured.
METHODS = [
    ("`TracIn()`", "inner products of projected gradients over checkpoints",
     "TracIn(), 4 checkpoints"),
    ("`TracIn(None)`, one checkpoint", "GradDot: of whole gradients", "GradDot: TracIn(None)"),
    ("`TracIn(None, \"unit\")`, one checkpoint", "GradCos: their cosine",
     "GradCos: TracIn(None, 'unit')"),
    ("`TracIn(metric=\"adam\", whiten=1)`",
     "in Adam's metric, whitened by the training gradients",
     "TracIn(metric='adam', whiten=1), 4"),
    ("`TracIn(PCA(16), metric=\"adam\", whiten=1)`", "with a projection learned from the gradients",
     "TracIn(PCA(16), metric='adam', whiten=1), 4"),
    ("`TracIn(None, metric=\"adam\", whiten=1)`", "with whole gradients",
     "TracIn(None, metric='adam', whiten=1), 4"),
    ("`EKFAC()`", "influence functions with Kronecker-factored curvature", "EK-FAC"),
    ("`EKFAC(corrected=False)`", "K-FAC: the same without corrected eigenvalues", "K-FAC"),
    ("`GaussNewton()`", "influence functions by conjugate gradients: the expensive reference",
     "Gauss-Newton, CG"),
    ("`SOURCE()`", "training unrolled in segments of constant curvature", "SOURCE"),
    ("`TRAK()`", "influence in the linearised model; ensembles are checkpoints", "TRAK"),
    ("`TrackStar()`", "gradients over sqrt(v), whitened on both sides, unit length", "TrackStar"),
    ("`LESS()`", "cosine with Adam's step on each example", "LESS"),
    ("`DataInf()`", "influence functions with the mean of inverses", "DataInf"),
    ("`RepresentationSimilarity()`", "cosine of hidden states", "RepresentationSimilarity"),
    ("`EmbeddingSimilarity()`", "cosine of mean input embeddings", "EmbeddingSimilarity"),
    ("`BM25()`", "shared words", "BM25"),
    ("`BM25(ngram=3)`", "shared runs of up to three tokens", "BM25, trigrams"),
    ("`Random()`", "chance", "Random"),
]  # fmt: skip


def write(results: dict[str, Any], entries: list[str]) -> None:
    """Rewrites the tables of benchmarks/README.md and of README.md."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    body = (
        f"Measured with: {versions}, Python {sys.version.split()[0]}, one thread.\n\n"
        f"{markdown(table(results, entries))}\n"
        "Projection, of TracIn(metric='adam', whiten=1) over four checkpoints:\n\n"
        f"{markdown(pd.DataFrame(results['projections']))}"
    )
    replace_part(HERE / "README.md", "llm evidence", body)
    replace_part(HERE.parent / "README.md", "llm methods", markdown(methods(results)))


def methods(results: dict[str, Any]) -> pd.DataFrame:
    """What each method is, and how well it does."""
    lines = []
    for shown, what, name in METHODS:
        facts = results.get(f"facts | {name}") or {}
        line = {"method": shown, "what it is": what, "LDS": mean_lds(results, name)}
        lines.append(line | {"recall@10": facts.get("recall@10"), "AUC": facts.get("auc")})
    floor = {"method": "", "what it is": "training again in another batch order"}
    return pd.DataFrame([*lines, floor | {"LDS": mean_lds(results, "seed floor")}])


def mean_lds(results: dict[str, Any], name: str) -> float | None:
    """Mean over the settings with a hundred subsets; None where one is missing."""
    told = [results.get(f"{setting} | {name}") for setting in SUBSETS[:-1]]
    return None if None in told else float(np.mean([one["lds"] for one in told if one]))


def table(results: dict[str, Any], entries: list[str]) -> pd.DataFrame:
    """One line for each estimator."""
    lines = []
    for name in ["seed floor", *entries]:
        line: dict[str, Any] = {"estimator": name}
        told = {s: results[f"{s} | {name}"] for s in SUBSETS if results.get(f"{s} | {name}")}
        line["LDS, mean of 6"] = mean_lds(results, name)
        for setting, one in told.items():
            low, high = one["interval"]
            line[setting] = f"{one['lds']:.2f} [{low:.2f}, {high:.2f}]"
        alone = results.get(f"{ALONE} | {name}")
        line["LOO"] = None if alone is None else alone["lds"]
        removed = [one["removal"] for one in told.values() if "removal" in one]
        for k, share in enumerate(REMOVED):
            line[f"removal {share:.0%}"] = np.mean([one[k] for one in removed]) if removed else None
        line.update(results.get(f"facts | {name}") or {})
        lines.append(line)
    return pd.DataFrame(lines)
