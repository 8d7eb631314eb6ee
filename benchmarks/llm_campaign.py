"""Retrains the problems of language models, and keeps every result.

    INFLUENCE_DATA=/path/to/data python -m benchmarks.llm_campaign --cache DIR [--settings gpt2 ...]

A killed campaign goes on where it was. Of each setting one line of JSON is printed: the standard
deviation of effects over the changes, and how well BM25 on character trigrams predicts them (the
mean over queries of the Spearman correlation, with its 95 % bootstrap interval): what an estimator
that looks at the model has to beat.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.llm_problems import SETTINGS, Problem, load
from influence.campaign import Campaign
from influence.change import removed_weight
from influence.evaluate import compare

Floats = NDArray[np.float64]

K1 = 1.2  # how soon a trigram that comes again counts no more


def effects(
    problem: Problem, cache: Path, n_jobs: int | None = None, progress: bool = False
) -> Floats:
    """Real effects of the setting's changes, cached or new; shape (n_changes, n_queries)."""
    campaign = Campaign(problem.retrain, cache, n_jobs, progress)
    return campaign.effects(problem.setting.changes(), len(problem.queries))


def bm25(problem: Problem) -> Floats:
    """Okapi BM25 of trigrams, each query's counted once; shape (n_train, n_queries).

    Sequences are of one length, so no length enters.
    """
    train = [_trigrams(example["input_ids"].tolist()) for example in problem.train]
    queries = [_trigrams(example["input_ids"].tolist()) for example in problem.queries]
    n_holding = Counter(trigram for counts in train for trigram in counts)
    n_train = len(train)
    rarity = {k: np.log(1 + (n_train - n + 0.5) / (n + 0.5)) for k, n in n_holding.items()}
    values = np.zeros((n_train, len(queries)))
    for i, counts in enumerate(train):
        for j, asked in enumerate(queries):
            values[i, j] = sum(
                rarity[k] * counts[k] * (K1 + 1) / (counts[k] + K1) for k in asked if k in counts
            )
    return values


def predicted(problem: Problem, values: Floats) -> Floats:
    """Effects of the setting's changes by values (n_train, n_queries), as a sum over rows."""
    changes = problem.setting.changes()
    return np.stack([removed_weight(change, len(values)) for change in changes]) @ values


def _trigrams(ids: list[int]) -> Counter[tuple[int, ...]]:
    return Counter(tuple(ids[i : i + 3]) for i in range(len(ids) - 2))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_campaign", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of retrained losses")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--jobs", type=int, default=1, help="retrainings at a time")
    args = parser.parse_args()
    for name in args.settings:
        begun = time.perf_counter()
        problem = load(name)
        loaded = time.perf_counter()
        found = effects(problem, args.cache, args.jobs, progress=True)
        judged = compare(predicted(problem, bm25(problem)), found)
        told = {
            "setting": name, "parameters": sum(p.numel() for p in problem.model.parameters()),
            "steps": problem.checkpoints[-1].step, "changes": len(found),
            "loss": problem.retrain.base.mean(), "sd of effects": found.std(axis=0).mean(),
            "BM25": judged.mean, "interval": judged.interval,
            "seconds to load": loaded - begun, "seconds": time.perf_counter() - loaded,
        }  # fmt: skip
        rounded = {k: round(v, 4) if isinstance(v, float) else v for k, v in told.items()}
        print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
