"""Estimators of language models against real retrainings, and on made-up facts.

    INFLUENCE_DATA=/path/to/data python -m benchmarks.llm_evidence --cache DIR

Of every estimator, on the settings of benchmarks/llm_problems.py:

- **LDS**: mean over queries of the Spearman correlation, over half subsets of the training
  sequences really retrained, between predicted and retrained losses; 95 % bootstrap interval over
  subsets and queries. The seed floor is the LDS of retraining itself in another batch order.
- **LOO**: the same correlation over every sequence left out alone, on a run of 16 steps.
- **Removal**: mean rise of a query's loss, in nats a token, after its own first 1 and 5 % of the
  training sequences are removed and the model is retrained.

On made-up facts: the share of each answer's true source documents among the first 10 (recall@10),
and the area under the ROC curve of self-influence for documents that state something false (AUC).
Costs are CPU seconds of fit and explain on the facts, one thread.

What is done is kept in the cache and in benchmarks/results/llm_evidence.json; a killed run goes on.
Writes the tables of benchmarks/README.md and that of methods in README.md.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.llm_campaign import effects, predicted
from benchmarks.llm_problems import Problem, Retrain, load
from benchmarks.llm_tables import ALONE, REMOVED, SUBSETS, write
from influence.campaign import Campaign
from influence.evaluate import compare
from influence.removal import removal_curve
from llm_influence import (
    BM25,
    EKFAC,
    LESS,
    PCA,
    SOURCE,
    TRAK,
    Checkpoint,
    CheckpointRun,
    DataInf,
    Dense,
    EmbeddingSimilarity,
    GaussNewton,
    Kronecker,
    Random,
    RepresentationSimilarity,
    TracIn,
    TrackStar,
    trace,
)  # fmt: skip
from llm_influence.quickstart import generator

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "llm_evidence.json"
Floats = NDArray[np.float64]

LARGE = "gpt2-1m"
REMOVAL_ON = ("gpt2", "gpt2-low-rate")


@dataclass(frozen=True)
class Entry:
    """An estimator to judge.

    Attributes:
        make: Makes it.
        moments: Checkpoints of its run: the last one, or all four.
        dear: It takes hours at 1M parameters and on the facts: left out there.
    """

    make: Callable[[], Any]
    moments: Literal["last", "all"] = "last"
    dear: bool = False


ENTRIES: dict[str, Entry] = {
    "Random": Entry(lambda: Random()),
    "BM25": Entry(lambda: BM25()),
    "BM25, trigrams": Entry(lambda: BM25(ngram=3)),
    "EmbeddingSimilarity": Entry(lambda: EmbeddingSimilarity()),
    "RepresentationSimilarity": Entry(lambda: RepresentationSimilarity()),
    "GradDot: TracIn(None)": Entry(lambda: TracIn(None)),
    "GradCos: TracIn(None, 'unit')": Entry(lambda: TracIn(None, "unit")),
    "TracIn()": Entry(lambda: TracIn()),
    "TracIn(), 4 checkpoints": Entry(lambda: TracIn(), "all"),
    "TracIn(metric='adam'), 4": Entry(lambda: TracIn(metric="adam"), "all"),
    "TracIn(whiten=1), 4": Entry(lambda: TracIn(whiten=1.0), "all"),
    "TracIn(metric='adam', whiten=1), 4": Entry(lambda: TracIn(metric="adam", whiten=1.0), "all"),
    "TracIn(PCA(16), metric='adam', whiten=1), 4": Entry(
        lambda: TracIn(PCA(16), metric="adam", whiten=1.0), "all"
    ),
    "TracIn(None, metric='adam', whiten=1), 4": Entry(
        lambda: TracIn(None, metric="adam", whiten=1.0), "all"
    ),
    "LESS": Entry(lambda: LESS(), "all"),
    "TrackStar": Entry(lambda: TrackStar()),
    "TRAK": Entry(lambda: TRAK()),
    "DataInf": Entry(lambda: DataInf()),
    "K-FAC": Entry(lambda: EKFAC(corrected=False)),
    "EK-FAC": Entry(lambda: EKFAC()),
    "Gauss-Newton, CG": Entry(lambda: GaussNewton(), dear=True),
    "SOURCE": Entry(lambda: SOURCE(), "all"),
}
PROJECTIONS: dict[str, Any] = {
    "Kronecker(4)": Kronecker(4), "Kronecker(8)": Kronecker(8), "Kronecker(16)": Kronecker(16),
    "Kronecker(32)": Kronecker(32), "PCA(8)": PCA(8), "PCA(16)": PCA(16),
    "Dense(1024)": Dense(1024), "Dense(4096)": Dense(4096), "none": None,
}  # fmt: skip
PROJECTIONS_ON = ("gpt2", "gpt2-low-rate", "llama")


def runs_of(problem: Problem) -> dict[str, CheckpointRun]:
    """The problem's run with its last checkpoint and with all four."""
    n = problem.setting.n_train
    taken, moments, before = problem.retrain.recipe, [], 0
    for moment in problem.checkpoints:
        rate = sum(taken.rate(step) for step in range(before, moment.step)) / n
        moments.append(Checkpoint(moment.weights, rate, moment.adam, f"step {moment.step}"))
        before = moment.step
    return {
        name: trace(problem.model, problem.train, checkpoints=kept)
        for name, kept in (("last", moments[-1:]), ("all", moments))
    }


def judged(
    problem: Problem, runs: dict[str, CheckpointRun], entry: Entry, found: Floats, cache: Path
) -> dict[str, Any]:
    """An estimator on one setting."""
    values = entry.make().fit(runs[entry.moments]).explain(problem.queries).values
    agreed = compare(predicted(problem, values), found)
    result: dict[str, Any] = {"lds": agreed.mean, "interval": list(agreed.interval)}
    if problem.name in REMOVAL_ON:
        campaign = Campaign(problem.retrain, cache, progress=False)
        curve = removal_curve(values, campaign, REMOVED)
        result["removal"] = [float(x) for x in curve.mean]
    return result


def seed_floor(problem: Problem, found: Floats, cache: Path) -> dict[str, Any]:
    """Agreement of the campaign with the same one in another batch order."""
    recipe = problem.retrain.recipe
    rng = np.random.default_rng(99)
    order = torch.cat(recipe.order).reshape(problem.setting.n_epochs, -1)
    shuffled = [epoch[torch.from_numpy(rng.permutation(len(epoch)))] for epoch in order]
    batches = [b for epoch in shuffled for b in epoch.split(problem.setting.batch_size)]
    other = replace(recipe, order=tuple(batches))
    base = other.losses(np.ones(problem.setting.n_train))
    campaign = Campaign(Retrain(other, base), cache, progress=False)
    again = campaign.effects(problem.setting.changes(), len(problem.queries))
    agreed = compare(again, found)
    return {"lds": agreed.mean, "interval": list(agreed.interval)}


@dataclass(frozen=True, eq=False)
class Facts:
    """A model that learned made-up facts, and what is known of them."""

    made: Any
    trained: Any
    asked: list[Any]
    runs: dict[str, CheckpointRun]


def facts_learned() -> Facts:
    from llm_influence.facts_model import encoded, train

    maker = generator()
    made = maker.made_up_facts(seed=0, wrong=0.2)
    tokenizer = maker.word_tokenizer(made.texts())
    trained = train(tokenizer, made.documents, made.practice, seed=0)
    asked = [encoded(tokenizer, pair["prompt"], pair["completion"]) for pair in made.questions]
    runs = {
        name: trace(trained.model, trained.examples, checkpoints=kept, batch_size=32)
        for name, kept in (("last", trained.checkpoints[-1:]), ("all", trained.checkpoints))
    }
    return Facts(made, trained, asked, runs)


def on_facts(facts: Facts, entry: Entry) -> dict[str, Any]:
    begun = time.process_time()
    estimator = entry.make().fit(facts.runs[entry.moments])
    values = estimator.explain(facts.asked).values
    seconds = time.process_time() - begun
    order = np.argsort(-values, axis=0, kind="stable")
    sources = facts.made.sources
    recall = {
        f"recall@{k}": float(
            np.mean([len({*order[:k, j]} & {*true}) / len(true) for j, true in enumerate(sources)])
        )
        for k in (4, 10)
    }
    suspicion = estimator.self_influence()[: len(facts.made.documents)]
    return {**recall, "auc": _auc(suspicion, facts.made.wrong), "seconds": seconds}


def _auc(suspicion: Floats, wrong: list[int]) -> float:
    """Chance that a wrong document ranks above a right one, ties counted half."""
    ranks = rankdata(suspicion)
    n_wrong, n = len(wrong), len(suspicion)
    return float((ranks[wrong].sum() - n_wrong * (n_wrong + 1) / 2) / (n_wrong * (n - n_wrong)))


def projections(cache: Path) -> list[dict[str, Any]]:
    """What projection costs the whitened TracIn in Adam's metric, over four checkpoints."""
    listed: dict[str, dict[str, Any]] = {name: {"projection": name} for name in PROJECTIONS}
    for setting in PROJECTIONS_ON:
        problem = load(setting)
        found = effects(problem, cache)
        run = runs_of(problem)["all"]
        for name, projection in PROJECTIONS.items():
            estimator = TracIn(projection, metric="adam", whiten=1.0).fit(run)
            values = estimator.explain(problem.queries).values
            listed[name]["columns"] = estimator.steps_[0].train_of.width
            listed[name][f"LDS, {setting}"] = compare(predicted(problem, values), found).mean
    return list(listed.values())


class Kept:
    """Results on disk, so that nothing is measured twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self.results:
            self.results[key] = make()
            self._path.write_text(json.dumps(self.results, indent=1) + "\n")
            print(key, self.results[key], flush=True)
        return self.results[key]


def measure(kept: Kept, cache: Path, settings: list[str], only: list[str]) -> None:
    for setting in settings:
        problem = load(setting)
        found = effects(problem, cache)
        runs = runs_of(problem)
        if setting != ALONE:
            kept.get(f"{setting} | seed floor", lambda: seed_floor(problem, found, cache))  # noqa: B023
        for name in only:
            entry = ENTRIES[name]
            if entry.dear and setting == LARGE:
                continue
            kept.get(f"{setting} | {name}", lambda: judged(problem, runs, entry, found, cache))  # noqa: B023
    asked = [name for name in only if not ENTRIES[name].dear]
    missing = [name for name in asked if f"facts | {name}" not in kept.results]
    if missing:
        facts = facts_learned()
        for name in missing:
            kept.get(f"facts | {name}", lambda: on_facts(facts, ENTRIES[name]))  # noqa: B023
    kept.get("projections", lambda: projections(cache))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.llm_evidence", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder of retrained losses")
    parser.add_argument(
        "--settings", nargs="+", choices=[*SUBSETS, ALONE], default=[*SUBSETS, ALONE]
    )
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(RESULTS)
    measure(kept, args.cache, args.settings, args.only)
    write(kept.results, list(ENTRIES))


if __name__ == "__main__":
    main()
