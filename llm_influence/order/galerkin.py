"""`Galerkin`: a replay of any order in a few dimensions, around the order-averaged training.

The average training (see `mean_field`) has a path w_t, m_t, v_t. Deviations from it are followed in
a basis of K columns: w - w_t = sqrt(P) U x, with P the typical preconditioner. With the rule's
Jacobians R along the path, reduced to K x K, a step on item l takes

    g = U' sqrt(P) H_l sqrt(P) U x
    x <- Rxx x + Rxm m + Rxg g + f,    m <- Rmm m + Rmx x + Rmg g

where f is what the items so far do with their gradients at w_t: the sum over places of what each
moves x by at this step, in the middle of random orders (see `contexts`). The loss of a query is its
quadratic at the end of the path.

U holds the leading components of the deviations of a few really trained random orders, and, for the
queries asked about, of their adjoints: their gradients swept back along the path. The first say
where trainings go, the others what of it the queries see.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from influence.change import Reordered
from influence.checks import check_positive, check_whole
from influence.progress import track
from llm_influence.order.basis import Basis, preconditioner
from llm_influence.order.contexts import n_passes
from llm_influence.order.curved import items_curved, queries_curved, widened
from llm_influence.order.mean_path import MeanPath, Mixed, spaced, virtual_path
from llm_influence.order.method import Asked, Built, Floats, Method, Orders
from llm_influence.order.places import Places
from llm_influence.order.reduced import (
    Reduced,
    Squares,
    between,
    both_squares,
    maps,
    pushes,
    slopes,
    squares,
)
from llm_influence.order.rules import Partials
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import annealed, balanced, shuffled

TABLES = 4  # steps at which gradients of all items are kept
SHORT = 20  # steps over which curvature changes little
DRAWN = 4  # items at every place that move the average path between these steps
SEEN = 5  # steps, ends included, at which a query's adjoint may add columns
TOGETHER = 2048  # orders replayed at a time
TRIED, CHAINS = 1000, 64  # random orders of which the best are searched on from


@dataclass(frozen=True)
class Galerkin(Method):
    """The reduced replay: any order, the loss of any batch or query.

    Cost, in retrainings of T steps of one of N batches: build about 4 (N / T + 1) for the average
    path, `columns` x `knots` x N / T for curvature, and `paths`; a question about some queries
    about `adjoints` x `knots` x N / T + 4, `contexts` times the updates of N (T + 1) / 2 trainings,
    and as much as `columns` gradients of each; an order about 1e-4 (python -m
    benchmarks.order_evidence). Memory: about (4 N + 12 T) vectors of all parameters.

    Wrong where the Jacobians along one path say too little: long windows at high rates. Curvature
    is the items' own, but gradients do not move v through it. Calibration shows it.

    Attributes:
        columns: Most columns of the basis for the paths. Taken are as many as hold all but 1e-6
            of the variance of the paths.
        adjoints: Most columns that the queries of a question add together. None: two for each, from
            8 to 32.
        knots: Points in time at which curvature is taken; it is linear between them. None: 1 up to
            20 steps, else 2.
        paths: Random orders that are really trained, whose deviations span the basis.
        contexts: Passes over random orders whose updates are followed, for f. 0: f is what the
            gradients and their squares do to first order, as always for SGD, whose updates are
            linear. None: 2, up to 16 of small models; 1 where the updates are those of 1,000
            trainings or more, 0 from 10,000 on.
        spread: Adam's sqrt(v) is sqrt(v + s^2) in the Jacobians; s is this times the root mean
            over parameters of v's standard deviation over orders. 0 is the plain derivative, which
            fails where orders change v as much as its mean: from a fresh state.
    """

    columns: int = 32
    adjoints: int | None = None
    knots: int | None = None
    paths: int = 4
    contexts: int | None = None
    spread: float = 1.0

    def __post_init__(self) -> None:
        check_whole("columns", self.columns, least=1)
        check_whole("paths", self.paths, least=1)
        if self.knots is not None:
            check_whole("knots", self.knots, least=1)
        if self.adjoints is not None:
            check_whole("adjoints", self.adjoints)
        if self.contexts is not None:
            check_whole("contexts", self.contexts)
        check_positive("spread", self.spread, zero=True)

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        return _Built(self, run, seed, progress)


class _Built(Built):
    def __init__(self, method: Galerkin, run: OptimizerRun, seed: int, progress: bool) -> None:
        self._method, self._run, self._seed, self._progress = method, run, seed, progress
        n = run.n_steps
        some = DRAWN * run.places.n_places < n * run.n_train
        drawn = balanced(run.places, DRAWN, seed) if some else None
        self._path = path = virtual_path(run, spaced(n, TABLES), progress, drawn)
        self._steps = steps = _partials(run, path, method.spread)
        n_knots = method.knots or (1 if n <= SHORT else 2)
        self._knots = [n // 2] if n_knots == 1 else spaced(n, n_knots)
        still = path.states[-1].weights == path.states[0].weights
        scale = preconditioner(steps, still).sqrt()
        deviations = _deviations(run, path, method.paths, seed + 1)
        self._basis = basis = Basis.of(deviations, scale, method.columns)
        self._first = None
        self._passes = n_passes(method.contexts, run)
        if not self._passes:
            self._first = slopes(basis, path), squares(basis, path, steps)
        self._curved = items_curved(run, path, self._knots, basis, progress)

    def ask(self, queries: BatchQueries) -> Asked:
        run, path, steps = self._run, self._path, self._steps
        derivatives, end = run.derivatives(), path.states[-1].weights
        batches = [run.placed(batch) for batch in queries.batches]
        first = torch.stack([derivatives.gradient(end, batch) for batch in batches])
        most = self._method.adjoints
        most = min(32, max(8, 2 * len(first))) if most is None else most
        added = self._basis.beside(self._adjoints(first, most), most)
        basis = self._basis.with_columns(added)
        reduced = Reduced(
            maps(basis, steps),
            *self._first_order(added),
            widened(
                self._curved, run, path, self._knots, self._basis, added, self._progress
            ),
            torch.from_numpy(between(run.n_steps, self._knots)).to(end),
            run.places,
            self._pushes(basis),
        )  # fmt: skip
        bends = [
            queries_curved(derivatives, end, batch, basis)
            for batch in track(batches, "queries", len(batches), self._progress)
        ]
        return _Asked(reduced, basis.slope(first), torch.stack(bends))

    def _first_order(self, added: Basis) -> tuple[Tensor | None, Squares | None]:
        """What gradients and their squares do to first order, in the columns with added ones."""
        if self._first is None:
            return None, None
        held, of_squares = self._first
        more = slopes(added, self._path), squares(added, self._path, self._steps)
        return torch.cat([held, more[0]], dim=-1), both_squares(of_squares, more[1])

    def _pushes(self, basis: Basis) -> list[Tensor] | None:
        n, run = self._passes, self._run
        return pushes(run, self._path, basis, n, self._seed, self._progress) if n else None

    def _adjoints(self, first: Tensor, most: int) -> Tensor:
        """Of the weights at a few steps, shape (n_adjoints, n): each step back bends by a batch.

        Args:
            first: Gradients of the queries at the end, shape (n_queries, n).
            most: Columns that are made of them; none are needed for 0.
        """
        if not most:
            return first[:0]
        run, states, rng = self._run, self._path.states, np.random.default_rng(self._seed)
        derivatives, seen = run.derivatives(), spaced(run.n_steps + 1, SEEN)
        adjoints, kept = (first, *(torch.zeros_like(first) for _ in states[-1].moments)), [first]
        for step in range(run.n_steps - 1, seen[0] - 1, -1):
            weights, *moments, mean, _ = self._steps[step].back(adjoints)
            batch = run.batch(int(rng.integers(run.n_batches)))
            with derivatives.linearised(states[step].weights, batch) as here:
                adjoints = (weights + here.products(mean)[0], *moments)
            if step in seen:
                kept.append(adjoints[0])
        return torch.cat(kept)


def _partials(run: OptimizerRun, path: MeanPath, spread: float) -> list[Partials]:
    """Jacobians of the steps along the path; v's root is smoothed by what orders make of v."""
    rule, found = run.rule(), []
    variance = torch.zeros_like(run.final)
    for step in range(run.n_steps):
        here, smoothing = path.at(step), 0.0
        state, mean, square = path.states[step], here.mean, here.square
        one = rule.partials(*state, mean, square, step)
        if len(one.table) == 3:
            kept, taken = one.table[2][2], one.table[2][-1]
            assert kept is not None and taken is not None
            variance = kept**2 * variance + taken**2 * _variance(here, run.places, step)
            roots = rule.roots((variance, variance.sqrt()), step)
            smoothing = spread * float(roots.norm()) / max(len(roots), 1) ** 0.5
        if smoothing:
            one = replace(rule, smoothing=smoothing).partials(*state, mean, square, step)
        found.append(one)
    return found


def _variance(here: Mixed, places: Places, step: int) -> Tensor:
    """Of the square of the step's gradient over the items of its places, shape (n,)."""
    chances = torch.from_numpy(places.chances).to(here.mean)
    total = torch.zeros_like(here.mean)
    shares, counts = np.unique(places.shares[places.of_step(step)], return_counts=True)
    for share, count in zip(shares.tolist(), counts.tolist(), strict=True):
        square = share**2 * here.gradients**2
        square = square + 2 * share * (1 - share) * here.gradients * here.mean
        total = total + count * (chances @ (square - chances @ square) ** 2)
    return total


def _deviations(run: OptimizerRun, path: MeanPath, n_paths: int, seed: int) -> Tensor:
    """Of the weights of real trainings in random orders, shape (n_deviations, n)."""
    found = []
    for order in shuffled(run.places, n_paths, seed):
        weights = run.path(Reordered(order))
        found += [one - there.weights for one, there in zip(weights, path.states, strict=True)]
    return torch.stack(found)


class _Asked(Asked):
    """Replays of orders, and the queries' quadratics at their ends."""

    def __init__(self, reduced: Reduced, slopes: Tensor, bends: Tensor) -> None:
        self._reduced, self._slopes, self._bends = reduced, slopes, bends

    def losses(self, orders: Orders) -> Floats:
        some, which = np.unique(orders, axis=0, return_inverse=True)  # equal orders, equal bits
        parts = [some[i : i + TOGETHER] for i in range(0, len(some), TOGETHER)]
        return np.concatenate([self._some(part) for part in parts])[which]

    def best(self, seed: int, progress: bool) -> Orders:
        begin = shuffled(self._reduced.places, TRIED, seed)
        chosen = begin[np.argsort(self._mean(begin))[:CHAINS]]
        return annealed(self._mean, chosen, self._reduced.places, seed)

    def _mean(self, orders: Orders) -> Floats:
        return self.losses(orders).mean(axis=1)

    def _some(self, orders: Orders) -> Floats:
        x = self._reduced.replayed(orders)
        bent = torch.einsum("qka,oa,ok->oq", self._bends, x, x)
        return (x @ self._slopes.T + bent / 2).double().cpu().numpy()
