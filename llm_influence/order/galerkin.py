"""`Galerkin`: a replay of any order in a few dimensions, around the order-averaged training.

The average training (see `mean_field`) has a path w_t, m_t, v_t. Deviations from it are followed in
a basis of K columns: w - w_t = sqrt(P) U x, where P is the step's preconditioner along the path and
U holds the leading components of the deviations of a few really trained random orders. With the
rule's Jacobians along the path, reduced to K x K, a step on item l takes

    g = U' sqrt(P) (g_l(w_t) + H_l sqrt(P) U x) - average,   x <- Rww x + Rwm m + Rwg g + f
    m <- Rmm m + Rmw x + Rmg g

and f is what the squares of the gradients so far do through v, to first order. The loss of a query
is its quadratic at the end of the path. N K Hessian-vector products build it; an order costs a few
matrices of K x K, whatever the size of the model.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from influence.change import Reordered
from influence.checks import check_whole
from influence.errors import UnsupportedModelError
from influence.progress import track
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.mean_path import MeanPath, spaced, virtual_path
from llm_influence.order.method import Asked, Built, Floats, Method, Orders
from llm_influence.order.rules import Partials
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import annealed, shuffled

ENOUGH = 1 - 1e-6  # share of the paths' variance that the columns hold, if there are so many
MOST = 1e4  # times the median that a preconditioner counts at most
KNOTS = 4  # steps at which gradients of all items are kept
TOGETHER = 512  # orders replayed at a time


@dataclass(frozen=True)
class Galerkin(Method):
    """The reduced replay: any order, the loss of any batch or query.

    Cost, in retrainings: build about `columns` x `knots` x N / T for curvature, N / T x T for
    the average path's gradients, and `paths`. A query costs `columns` gradients once, an order
    about 1e-4.

    Attributes:
        columns: Most columns of the basis. Taken are as many as hold all but 1e-6 of the variance
            of the paths.
        knots: Points in time at which curvature is taken; it is linear between them.
        paths: Random orders that are really trained, whose deviations span the basis.
    """

    columns: int = 32
    knots: int = 1
    paths: int = 4

    def __post_init__(self) -> None:
        for name in ("columns", "knots", "paths"):
            check_whole(name, getattr(self, name), least=1)

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        n = run.n_steps
        path = virtual_path(run, spaced(n, KNOTS), progress)
        rule = run.rule()
        steps = []
        for step in range(n):
            here = path.at(step)
            steps.append(rule.partials(*path.states[step], here.mean, here.square, step))
        basis = _basis(run, path, steps, self.paths, seed).first(self.columns)
        return _Built(run, _reduced(run, path, steps, basis, self.knots, progress), basis, path)


@dataclass(frozen=True, eq=False)
class Basis:
    """K directions of the weights.

    Attributes:
        scale: sqrt(P), shape (n,).
        columns: U, orthonormal, shape (n, K).
    """

    scale: Tensor
    columns: Tensor

    def first(self, n: int) -> Self:
        """The leading columns."""
        return replace(self, columns=self.columns[:, :n])

    @property
    def directions(self) -> Tensor:
        """sqrt(P) U as rows, shape (K, n)."""
        return (self.scale[:, None] * self.columns).T

    def slope(self, gradients: Tensor) -> Tensor:
        """Gradients by the columns, shape (..., K)."""
        return gradients @ self.directions.T

    def inside(self, diagonal: Tensor | None, power: int) -> Tensor:
        """U' diag(d P^power) U, shape (K, K)."""
        if diagonal is None:
            return self.columns.new_zeros((self.columns.shape[1],) * 2)
        weight = diagonal * _power(self.scale, 2 * power)
        return self.columns.T @ (weight[:, None] * self.columns)

    def moved(self, change: Tensor) -> Tensor:
        """Changes of the weights in the basis, shape (..., K)."""
        return (change * _power(self.scale, -1)) @ self.columns


@dataclass(frozen=True, eq=False)
class Reduced:
    """What a replay of an order needs: everything of K dimensions.

    Attributes:
        maps: [Rww, Rwm, Rwg, Rmm, Rmw, Rmg] of every step, shape (n_steps, 6, K, K).
        slopes: Of every item before every step less the average, shape (n_steps, n_items, K).
        curved: Curvature of every item at every knot, shape (n_knots, n_items, K, K).
        between: What each knot counts at every step, shape (n_steps, n_knots).
        squares: squares[t][s, l]: what item l at step s <= t does at step t through v, shape
            (t + 1, n_items, K); none where the rule has no v.
    """

    maps: Tensor
    slopes: Tensor
    curved: Tensor
    between: Tensor
    squares: list[Tensor]


def _basis(run: OptimizerRun, path: MeanPath, steps: list[Partials], n: int, seed: int) -> Basis:
    """Leading components of the deviations of n real random orders from the average."""
    scale = _preconditioner(path, steps).sqrt()
    deviations = [
        (weights - there.weights) * _power(scale, -1)
        for order in shuffled(run.places, n, seed + 1)
        for weights, there in zip(run.path(Reordered(order)), path.states, strict=True)
    ]
    left, sizes, _ = torch.linalg.svd(torch.stack(deviations).T, full_matrices=False)
    held = (sizes**2).cumsum(0) / (sizes**2).sum()
    return Basis(scale, left[:, : int((held < ENOUGH).sum()) + 1])


def _preconditioner(path: MeanPath, steps: list[Partials]) -> Tensor:
    """What a unit of momentum moves a weight by, averaged over the steps; 0 where nothing does."""
    moves = [-move for one in steps if (move := one.table[0][1]) is not None]
    typical = torch.stack(moves).mean(dim=0)
    still = path.states[-1].weights == path.states[0].weights
    return torch.where(still, 0.0, typical.clamp(max=MOST * float(typical[~still].median())))


def _reduced(
    run: OptimizerRun, path: MeanPath, steps: list[Partials], basis: Basis, n_knots: int,
    progress: bool,
) -> Reduced:  # fmt: skip
    derivatives, mixtures = run.derivatives(), map(path.at, range(run.n_steps))
    slopes = torch.stack([basis.slope(here.gradients - here.mean) for here in mixtures])
    times, between = _knots(run.n_steps, n_knots)
    pairs = [(path.states[t].weights, i) for t in times for i in range(run.n_train)]
    found = [
        _curvature(derivatives, basis, weights, run.row(i))
        for weights, i in track(pairs, "curvature", len(pairs), progress)
    ]
    return Reduced(
        torch.stack([_maps(basis, one) for one in steps]),
        slopes,
        torch.stack(found).view(len(times), run.n_train, *found[0].shape),
        torch.from_numpy(between).to(basis.scale),
        _squares(run, path, steps, basis),
    )


def _knots(n_steps: int, n: int) -> tuple[list[int], Floats]:
    """Steps of the knots, and what each counts at every step; one alone is in the middle."""
    if n == 1:
        return [n_steps // 2], np.ones((n_steps, 1))
    times = spaced(n_steps, n)
    return times, _between(n_steps, times)


def _between(n_steps: int, knots: list[int]) -> Floats:
    """What each knot counts at every step, shape (n_steps, n_knots): linear between them."""
    steps, n = np.arange(n_steps), len(knots)
    return np.stack([np.interp(steps, knots, np.eye(n)[k]) for k in range(n)], axis=1)


def _maps(basis: Basis, one: Partials) -> Tensor:
    weights, momentum, *_ = one.table
    return torch.stack(
        [
            basis.inside(weights[0], 0), basis.inside(weights[1], -1),
            basis.inside(weights[-2], -1), basis.inside(momentum[1], 0),
            basis.inside(momentum[0], 1), basis.inside(momentum[-2], 0),
        ]
    )  # fmt: skip


def _curvature(derivatives: Derivatives, basis: Basis, weights: Tensor, batch: object) -> Tensor:
    with derivatives.linearised(weights, batch) as here:
        bent = here.products(basis.directions)[0]
    inner = basis.slope(bent)
    return (inner + inner.T) / 2


def _squares(
    run: OptimizerRun, path: MeanPath, steps: list[Partials], basis: Basis
) -> list[Tensor]:
    """What each item's squared gradient at a step does through v at a step, its own or later."""
    if len(steps[0].table) < 3:
        return []
    fading = [_constant(one.table[2][2]) for one in steps]
    taking = [_constant(one.table[2][-1]) for one in steps]
    fresh = [_fresh(run, path, knot) for knot in path.knots]
    between = torch.from_numpy(_between(run.n_steps, list(path.knots))).to(basis.scale)
    found = []
    for step, one in enumerate(steps):
        by_square, by_before = one.table[0][-1], one.table[0][2]
        assert by_square is not None and by_before is not None
        own = torch.stack([basis.moved(by_square * squares) for squares in fresh])
        old = torch.stack([basis.moved(by_before * squares) for squares in fresh])
        kept = [taking[s] * float(np.prod(fading[s + 1 : step])) for s in range(step)]
        before = torch.tensor(kept).to(basis.scale)[:, None] * between[:step]
        earlier = torch.einsum("sk,kic->sic", before, old)
        now = torch.einsum("k,kic->ic", between[step], own)
        found.append(torch.cat([earlier, now[None]]))
    return found


def _fresh(run: OptimizerRun, path: MeanPath, knot: int) -> Tensor:
    """What each item adds to the square of a step, less the average, shape (n_items, n)."""
    here, chances = path.at(knot), run.places.counts / run.places.counts.sum()
    share = float(run.places.shares[run.places.of_step(knot)].mean())
    squares = share**2 * here.gradients**2 + 2 * share * (1 - share) * here.gradients * here.mean
    return squares - torch.from_numpy(chances).to(squares) @ squares


def _constant(diagonal: Tensor | None) -> float:
    """The number on a diagonal that has one number."""
    if diagonal is None or not torch.allclose(diagonal, diagonal[:1]):
        raise UnsupportedModelError(
            "Expected groups of the optimizer with the same betas, got others; method "
            '"mean_field" answers those.'
        )
    return float(diagonal[0])


class _Built(Built):
    def __init__(self, run: OptimizerRun, reduced: Reduced, basis: Basis, path: MeanPath) -> None:
        self._run, self._reduced, self._basis = run, reduced, basis
        self._end = path.states[-1].weights

    def ask(self, queries: BatchQueries) -> Asked:
        slopes, curved = [], []
        derivatives = self._run.derivatives()
        for batch in queries.batches:
            there = self._run.placed(batch)
            slopes.append(self._basis.slope(derivatives.gradient(self._end, there)))
            curved.append(_curvature(derivatives, self._basis, self._end, there))
        return _Asked(self._run, self._reduced, torch.stack(slopes), torch.stack(curved))


class _Asked(Asked):
    """Replays of orders, and the queries' quadratics at their ends."""

    def __init__(self, run: OptimizerRun, reduced: Reduced, slopes: Tensor, curved: Tensor) -> None:
        self._run, self._reduced, self._slopes, self._curved = run, reduced, slopes, curved

    def losses(self, orders: Orders) -> Floats:
        return np.concatenate([self._some(part) for part in _blocks(orders)])

    def best(self, seed: int, progress: bool) -> Orders:
        places = self._run.places
        begin = shuffled(places, TOGETHER, seed)
        chosen = begin[np.argsort(self._mean(begin))[:64]]
        return annealed(self._mean, chosen, places, seed)

    def _mean(self, orders: Orders) -> Floats:
        return self.losses(orders).mean(axis=1)

    def _some(self, orders: Orders) -> Floats:
        x = replayed(self._run, self._reduced, orders)
        bent = torch.einsum("ok,qkj,oj->oq", x, self._curved, x)
        return (x @ self._slopes.T + bent / 2).double().cpu().numpy()


def replayed(run: OptimizerRun, reduced: Reduced, orders: Orders) -> Tensor:
    """Deviations from the average training's end, in the basis, shape (n_orders, K)."""
    x = reduced.slopes.new_zeros((len(orders), reduced.slopes.shape[-1]))
    m, places = torch.zeros_like(x), run.places
    for step in range(run.n_steps):
        to_w, w_m, w_g, to_m, m_w, m_g = reduced.maps[step]
        curved = torch.einsum("k,kiab->iab", reduced.between[step], reduced.curved)
        gradient, forced = torch.zeros_like(x), torch.zeros_like(x)
        here = places.of_step(step)
        for place in range(here.start, here.stop):
            items = torch.from_numpy(orders[:, place])
            own = reduced.slopes[step][items]
            bent = torch.bmm(curved[items], x[:, :, None])[:, :, 0]
            gradient = gradient + float(places.shares[place]) * (own + bent)
        if reduced.squares:
            before = slice(0, here.stop)
            forced = _through_v(reduced.squares[step], orders[:, before], places.steps[before])
        x, m = (
            x @ to_w.T + m @ w_m.T + gradient @ w_g.T + forced,
            m @ to_m.T + x @ m_w.T + gradient @ m_g.T,
        )
    return x


def _through_v(squares: Tensor, orders: Orders, steps: Orders) -> Tensor:
    """Sum over the places so far of what their items do through v, shape (n_orders, K)."""
    return squares[torch.from_numpy(steps)[None, :], torch.from_numpy(orders)].sum(dim=1)


def _blocks(orders: Orders) -> list[Orders]:
    return [orders[i : i + TOGETHER] for i in range(0, len(orders), TOGETHER)]


def _power(scale: Tensor, power: int) -> Tensor:
    """A power where the scale is not 0, and 0 elsewhere."""
    return torch.where(scale > 0, torch.where(scale > 0, scale, 1.0) ** power, 0.0)
