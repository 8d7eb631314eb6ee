"""Estimators of recorded trainings against real retrainings.

    INFLUENCE_DATA=/path/to/data python -m benchmarks.order_evidence --cache DIR --scale small|full

**Orders**, on the settings ORDERS of benchmarks/order_problems.py: 30 random orders of the batches
are really trained, and their effect on 4 queries of 12 held-out sequences is predicted.

- Spearman: mean over queries of the rank correlation over orders, mean over seeds of it and of the
  ends of its 95 % bootstrap interval; the lowest of the seeds; that of the mean of the queries.
- Slope of real on predicted effects, mean over queries. MAE: mean absolute error of the effects
  against the recorded order, in standard deviations of the real ones; "about the mean", after both
  sides are freed of their mean over the orders.
- Costs in CPU time of one retraining: what all queries share, one of the 4 queries, one order.
  MB: tensors that are held to answer orders about the 4 queries; none where they are recomputed.
- Memorisation: Pearson correlation of predicted and real losses of every batch after every order,
  each batch freed of its mean.
- Curriculum: the order of least predicted loss, found and then really trained: its effect on the
  mean of the queries, in thousandths of a nat, beside the best and the mean of the 30 random ones.

**Replays**, on the settings REPLAYS: influence of samples on 16 single sequences. LDS is the mean
over queries of the rank correlation over 60 half subsets really retrained; LOO the same over every
sample left out alone, on a run of 16 steps. TracIn and EK-FAC are asked about the same run.

Small is one seed and some settings; full is all, on 3 seeds. The seeds are others than those that
defaults were chosen on, with three exceptions that were found on them: two adjoint columns for each
query (Galerkin), the equal share of averaged halves, and path="both" (Replay). What is measured is
kept in benchmarks/results/order_evidence.json, and
retrainings in the cache: a killed run goes on. Writes the tables of benchmarks/README.md.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.llm_evidence import Kept
from benchmarks.order_problems import ORDERS, REPLAYS, Problem, batches, samples
from benchmarks.order_tables import RESULTS, write
from influence.campaign import Campaign
from influence.change import (
    Reordered,
    leave_one_out,
    random_orders,
    random_subsets,
    removed_weight,
)
from influence.errors import ParityError, TrainingDataError
from influence.evaluate import Agreement, compare
from llm_influence import (
    EKFAC,
    Checkpoint,
    CheckpointRun,
    Galerkin,
    MeanField,
    OptimizerRun,
    Pair,
    Replay,
    Taylor,
    TracIn,
    retrainer,
    trace,
)
from llm_influence.order.method import Asked, Method
from llm_influence.order.queries import BatchQueries

Floats = NDArray[np.float64]

SEEDS = (10, 11, 12)
SMALL = ("base", "carried", "wide", "t32", "lds-3e-3", "loo-3e-3")
N_ORDERS, N_SUBSETS = 30, 60
MANY = 512  # orders that a quick method is timed on
LARGE = 500_000  # parameters from which what costs trainings for each order is left out


@dataclass(frozen=True)
class Entry:
    """A method to judge.

    Attributes:
        method: The method.
        searches: Its best order is really trained.
        maps: It predicts the loss of every batch too.
        dear: Left out where the model is large.
    """

    method: Method
    searches: bool = False
    maps: bool = False
    dear: bool = False


METHODS: dict[str, Entry] = {
    "order 0, exact moments: Taylor(0, 'exact')": Entry(Taylor(0, "exact"), dear=True),
    "published: Taylor()": Entry(Taylor(), dear=True),
    "ceiling: Taylor(1, 'exact', 'products')": Entry(Taylor(1, "exact", "products"), dear=True),
    "Pair()": Entry(Pair()),
    "MeanField()": Entry(MeanField(), searches=True),
    "Galerkin()": Entry(Galerkin(), searches=True, maps=True),
}

REPLAYED: dict[str, Callable[[], Replay]] = {
    "Replay('sample', smoothing=0): published": lambda: Replay(
        "sample", calibrate=0, smoothing=0.0
    ),
    "Replay('sample')": lambda: Replay("sample", calibrate=0),
    "Replay('sample', average=4)": lambda: Replay("sample", calibrate=0, average=4),
    "Replay('sample', path='halves')": lambda: Replay("sample", calibrate=0, path="halves"),
    "Replay('sample', path='both')": lambda: Replay("sample", calibrate=0, path="both"),
}
TRACED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "GradDot: TracIn(None), end": (lambda: TracIn(None), ("end",)),
    "TracIn(None), start and end": (lambda: TracIn(None), ("start", "end")),
    "TracIn(None, whiten=1), start and end": (lambda: TracIn(None, whiten=1.0), ("start", "end")),
    "EKFAC(), end": (lambda: EKFAC(), ("end",)),
}


class Trained:
    """Orders of a problem that were really trained.

    The batches of the run are queries too, after those of the problem.
    """

    def __init__(self, problem: Problem, cache: Path, seed: int) -> None:
        run, self.n = problem.run, len(problem.queries)
        self.run, self.queries = run, run.queries(problem.queries)
        rows = run.train_queries().batches
        self.campaign = Campaign(
            retrainer(run, [*problem.queries, *rows]), cache, n_jobs=1, progress=False
        )
        n_epochs = len(run.places.epochs)
        self.changes = random_orders(run.n_batches, N_ORDERS, seed, n_epochs)
        self.effects = self.campaign.effects(self.changes)

    @property
    def real(self) -> Floats:
        """Effects on the queries, shape (n_orders, n_queries)."""
        return self.effects[:, : self.n]

    def told(self) -> dict[str, Any]:
        """What is known without any method; predicting the mean of all orders is the floor."""
        real, mean = self.real, self.real.mean(axis=1)
        return {
            "parameters": self.run.flat.n, "steps": self.run.n_steps,
            "seconds": training_seconds(self.run),
            "loss": float(self.run.losses(self.queries).mean()),
            "sd": float(real.std(axis=0).mean()), "floor": about_mean(0 * real, real),
            "best": float(mean.min()), "mean": float(mean.mean()),
        }  # fmt: skip


def order_judged(trained: Trained, entry: Entry) -> dict[str, Any] | None:
    """A method on one problem; None where it is too dear there."""
    run, n = trained.run, trained.n
    if entry.dear and run.flat.n > LARGE:
        return None
    begun = time.process_time()
    built = entry.method.build(run, 0, False)
    ready = time.process_time()
    asked = built.ask(trained.queries)
    told, one = time.process_time(), training_seconds(run)
    orders = np.stack([run.places.recorded, *(change.order for change in trained.changes)])
    losses = asked.losses(orders)
    costs = {"build": ready - begun, "query": (told - ready) / n, "order": per_order(asked, orders)}
    result: dict[str, Any] = {k: seconds / one for k, seconds in costs.items()}
    effects, real = losses[1:] - losses[0], trained.real
    result |= figures(compare(effects, real))
    result["of mean"] = compare(*(side.mean(axis=1)[:, None] for side in (effects, real))).mean
    result |= {"about mean": about_mean(effects, real), "bytes": held((built, asked))}
    if entry.maps:
        rows = built.ask(run.train_queries()).losses(orders[1:])
        result["memorisation"] = pearson(centred(rows), centred(trained.effects[:, n:]))
    if entry.searches:
        begun = time.process_time()
        found = Reordered(asked.best(0, False))
        result["search"] = (time.process_time() - begun) / one
        result["found"] = float(trained.campaign(found)[:n].mean())
    return result


def replay_judged(problem: Problem, name: str, found: Floats, changes: list[Any]) -> dict[str, Any]:
    """An attributor on one problem."""
    run, n = problem.run, len(problem.queries)
    begun = time.process_time()
    if name in REPLAYED:
        fitted, queries = REPLAYED[name]().fit(run, progress=False), problem.queries
    else:
        make, moments = TRACED[name]
        fitted = make().fit(traced(problem, moments), progress=False)
        queries = [{key: ids[0] for key, ids in query.items()} for query in problem.queries]
    ready = time.process_time()
    values = fitted.explain(queries, progress=False).values
    told, one = time.process_time(), training_seconds(run)
    predicted = np.stack([removed_weight(change, len(values)) for change in changes]) @ values
    costs = {"fit": (ready - begun) / one, "query": (told - ready) / n / one}
    return figures(compare(predicted, found)) | costs


def traced(problem: Problem, moments: tuple[str, ...]) -> CheckpointRun:
    """The same training as checkpoints of equal rates."""
    run = problem.run
    weights = {"start": run.start, "end": run.model.state_dict()}
    rate = float(np.sum(run.recipe.rates)) / len(problem.examples) / len(moments)
    checkpoints = [Checkpoint(weights[name], rate, name=name) for name in moments]
    return trace(run.model, problem.examples, checkpoints=checkpoints)


def figures(agreed: Agreement) -> dict[str, Any]:
    return {
        "spearman": agreed.mean, "interval": list(agreed.interval),
        "slope": float(agreed.slope.mean()), "mae": float(agreed.mae_over_sd.mean()),
    }  # fmt: skip


def centred(effects: Floats) -> Floats:
    return effects - effects.mean(axis=0)


def about_mean(predicted: Floats, real: Floats) -> float:
    """Mean absolute error about the mean over changes, in standard deviations of the real ones."""
    error = np.abs(centred(predicted) - centred(real)).mean(axis=0)
    return float((error / real.std(axis=0)).mean())


def pearson(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def per_order(asked: Asked, orders: NDArray[np.int64]) -> float:
    """CPU seconds of an order among many."""
    begun = time.process_time()
    asked.losses(orders)
    once = time.process_time() - begun
    if once > 1:
        return once / len(orders)
    many = np.tile(orders, (-(-MANY // len(orders)), 1))
    begun = time.process_time()
    asked.losses(many)
    return (time.process_time() - begun) / len(many)


def training_seconds(run: OptimizerRun) -> float:
    """CPU seconds of training once more: median of three."""
    found = []
    for _ in range(3):
        begun = time.process_time()
        run.train()
        found.append(time.process_time() - begun)
    return float(np.median(found))


def held(thing: Any, seen: set[int] | None = None) -> int:
    """Bytes of all tensors and arrays that an object holds, without run, queries and model."""
    seen = set() if seen is None else seen
    if isinstance(thing, OptimizerRun | BatchQueries | nn.Module) or id(thing) in seen:
        return 0
    if isinstance(thing, Tensor):
        whole = thing.untyped_storage()
        new = whole.data_ptr() not in seen
        seen.add(whole.data_ptr())
        return new * whole.nbytes()
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    parts = thing if isinstance(thing, list | tuple) else getattr(thing, "__dict__", {}).values()
    return sum(held(part, seen) for part in parts)


def able(judge: Callable[[], Any]) -> Any:
    """What is judged, or why it could not be: a training magnifies differences, say."""
    try:
        return judge()
    except (ParityError, TrainingDataError) as error:
        return {"failed": str(error)}


def measure_orders(kept: Kept, cache: Path, setting: str, seed: int) -> None:
    key = f"{setting} | {seed} | "
    names = [name for name in METHODS if key + name not in kept.results]
    if not names and key + "real" in kept.results:
        return
    trained = Trained(batches(ORDERS[setting], seed), cache, seed)
    kept.get(key + "real", trained.told)
    for name in names:
        kept.get(key + name, lambda: able(lambda: order_judged(trained, METHODS[name])))  # noqa: B023


def measure_replays(kept: Kept, cache: Path, setting: str, seed: int) -> None:
    key = f"{setting} | {seed} | "
    names = [name for name in (*TRACED, *REPLAYED) if key + name not in kept.results]
    if not names:
        return
    problem = samples(REPLAYS[setting], seed)
    run = problem.run.by("sample")
    changes = (
        leave_one_out(run.n_train)
        if setting.startswith("loo")
        else random_subsets(run.n_train, 0.5, N_SUBSETS, seed)
    )
    campaign = Campaign(retrainer(run, problem.queries), cache, n_jobs=1, progress=False)
    found = campaign.effects(changes, len(problem.queries))
    for name in names:
        kept.get(key + name, lambda: able(lambda: replay_judged(problem, name, found, changes)))  # noqa: B023


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.order_evidence", description=__doc__
    )
    parser.add_argument("--cache", type=Path, required=True, help="folder of retrained losses")
    parser.add_argument("--scale", choices=["small", "full"], default="small")
    parser.add_argument("--settings", nargs="+", choices=[*ORDERS, *REPLAYS])
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = Kept(RESULTS)
    chosen = args.settings or (SMALL if args.scale == "small" else [*ORDERS, *REPLAYS])
    for seed in SEEDS[:1] if args.scale == "small" else SEEDS:
        for setting in chosen:
            measure = measure_orders if setting in ORDERS else measure_replays
            measure(kept, args.cache, setting, seed)
    write(kept.results)


if __name__ == "__main__":
    main()
