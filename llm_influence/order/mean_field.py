"""`MeanField`: the effect of every item at every place, around the order-averaged training.

Relax an order to weights alpha[p, l] on item l at place p: a step of places p with shares s_p
absorbs, as the expectation over items drawn for each place by itself,

    mean   = sum_p s_p sum_l alpha[p, l] g_l
    square = mean^2 + sum_p s_p^2 (sum_l alpha[p, l] g_l^2 - (sum_l alpha[p, l] g_l)^2)

of the items' gradients g_l at the weights before it. Where every alpha is the share of the item in
the training, the path depends on no order. There the derivative of a query's loss by alpha is

    A[p, l] = <d mean, s_p g_l> + <d square, s_p^2 g_l^2 + 2 s_p (1 - s_p) g_l mean>

with d mean and d square the adjoints of what the step absorbs, swept backwards along the path with
the mean curvature of some random steps. An order's loss is, up to a constant, the sum over places
of A[p, order[p]].

This derivative is the effect of an item only where the update is nearly linear in the moments. Adam
with little behind it is not: v then changes with the order by as much as its mean. There an item is
really taken at a place, in the middle of random orders, and the updates are followed exactly:

    A[p, l] = mean over orders o of sum_{t >= p} <d weights[t + 1], change of step t by l at p>

see `contexts`.

The path is better taken as the mean of real trainings in balanced orders: it holds what the virtual
training misses, that the mean of Adam's update is not the update of the means.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.checks import check_positive, check_whole
from influence.progress import track
from influence.run import blocks
from llm_influence.order.contexts import n_passes, tried
from llm_influence.order.mean_path import MeanPath, Mixed, State, real_path, spaced, virtual_path
from llm_influence.order.method import Asked, Built, Floats, Method, Orders, Trained
from llm_influence.order.places import Places
from llm_influence.order.rules import back_through_clip, clip_scale
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import assigned, balanced

Positions = NDArray[np.int64]

TOGETHER = 16  # queries whose adjoints of all steps are held at a time


@dataclass(frozen=True)
class MeanField(Method):
    """The order-averaged sweep.

    Cost, in retrainings of T steps of one batch: build `orders`, and `knots` times the gradients
    of all items, n_items / T each; a query about 3 for each of `curvature`, and every 16 queries
    together `contexts` times the updates, without gradients, of n_items (T + 1) / 2 trainings. An
    order is then a sum of look-ups. Memory: weights, moments and the adjoints of 16 queries at each
    step, and the gradients of all items at `knots` steps.

    Wrong where effects of places do not add up, as at high rates from a random start: no table of
    positions ranks orders there. Calibration shows it.

    Attributes:
        orders: Real trainings in orders that share out the places among the items; the path is
            the mean of their states. 0: the path of the virtual training whose steps absorb the
            averages above, at the cost of the gradients of all items at each step.
        knots: Steps along the path at which gradients of all items are kept; between them they are
            interpolated in time. None: all steps.
        curvature: Random orders; each step of the sweep takes the mean curvature of their steps
            there. None: of all items, exactly as their average has it.
        smoothing: Adam's sqrt(v) is sqrt(v + smoothing^2) in the sweep.
        contexts: Passes over random orders whose updates are followed. 0: the derivative at the
            mean, as always for SGD, whose updates are linear. None: 2, up to 16 of small
            models; 1 where the updates are those of 1,000 trainings or more, 0 from 10,000 on.
    """

    orders: int = 16
    knots: int | None = 4
    curvature: int | None = 2
    smoothing: float = 1e-3
    contexts: int | None = None

    def __post_init__(self) -> None:
        check_whole("orders", self.orders)
        if self.knots is not None:
            check_whole("knots", self.knots, least=1)
        if self.curvature is not None:
            check_whole("curvature", self.curvature, least=1)
        check_positive("smoothing", self.smoothing, zero=True)
        if self.contexts is not None:
            check_whole("contexts", self.contexts)

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        knots = spaced(run.n_steps, run.n_steps if self.knots is None else self.knots)
        if self.orders:
            path = real_path(run, self.orders, knots, seed, progress)
        else:
            path = virtual_path(run, knots, progress)
        return _Built(self, run, path, seed, progress)


class _Built(Built):
    def __init__(
        self, method: MeanField, run: OptimizerRun, path: MeanPath, seed: int, progress: bool
    ) -> None:
        self._method, self._run, self._path = method, run, path
        self._seed, self._progress = seed, progress
        self._derivatives, self._rule = run.derivatives(), run.rule(method.smoothing)
        self._drawn = balanced(run.places, method.curvature or 1, seed)

    def ask(self, queries: BatchQueries) -> Asked:
        some = blocks(queries.n_queries, TOGETHER)
        found = [self._positions(queries[block]) for block in some]
        return _Asked(np.concatenate(found), self._run.places)

    def _positions(self, queries: BatchQueries) -> Floats:
        run, places, states = self._run, self._run.places, self._path.states
        found = np.zeros((queries.n_queries, places.n_places, places.n_items))
        end = states[-1].weights
        first = torch.stack(
            [self._derivatives.gradient(end, run.placed(batch)) for batch in queries.batches]
        )
        adjoints = (first, *(torch.zeros_like(first) for _ in states[-1].moments))
        kept = [first]
        steps = range(run.n_steps - 1, -1, -1)
        for step in track(steps, "mean field", run.n_steps, self._progress):
            here = self._path.at(step)
            partials = self._rule.partials(*states[step], here.mean, here.square, step)
            weights, *moments, of_mean, of_square = partials.back(adjoints)
            found[:, places.of_step(step)] = _effects(step, here, places, of_mean, of_square)
            bend = self._of_all if self._method.curvature is None else self._of_drawn
            adjoints = (weights + bend(step, here, of_mean, of_square), *moments)
            kept.append(adjoints[0])
        passes = n_passes(self._method.contexts, run)
        return self._tried(kept[::-1], passes) if passes else found

    def _tried(self, adjoints: Sequence[Tensor], passes: int) -> Floats:
        """Positions of updates that are followed.

        Args:
            adjoints: Of the weights before every step and after the last, shape (n_queries, n).
            passes: Over random orders.
        """
        places = self._run.places
        found = np.zeros((len(adjoints[0]), places.n_places, places.n_items))
        for k in range(passes):
            for one in tried(self._run, self._path, self._seed + k, self._progress):
                effects = adjoints[one.step + 1][:, one.columns] @ one.changes.T / passes
                found[:, one.places] += effects.double().cpu().numpy()[:, None]
        return found

    def trained(self) -> Trained:
        return self._path.trained or Trained([], [])

    def _of_drawn(self, step: int, _: Mixed, of_mean: Tensor, of_square: Tensor) -> Tensor:
        """What the gradients of random steps add to the adjoint of the weights, on average."""
        state, taken = self._path.states[step], self._run.places.of_step(step)
        shares = self._run.places.shares[taken]
        total = torch.zeros_like(of_mean)
        for items in self._drawn[:, taken]:
            total = total + self._of_step(state, items, shares, of_mean, of_square)
        return total / len(self._drawn)

    def _of_step(
        self, state: State, items: Positions, shares: Floats, of_mean: Tensor, of_square: Tensor
    ) -> Tensor:
        """What the clipped gradient of one step adds to the adjoint of the weights."""
        most, parts = self._run.recipe.max_grad_norm, self._parts(items, shares)
        whole = torch.zeros_like(state.weights)
        for factor, part in parts if len(parts) > 1 else ():
            whole = whole + factor * self._derivatives.gradient(state.weights, *part)
        total = torch.zeros_like(of_mean)
        for factor, part in parts:
            with self._derivatives.linearised(state.weights, *part) as one:
                gradient = whole if len(parts) > 1 else one.gradient
                clipped = gradient * clip_scale(gradient, most)
                along = back_through_clip(gradient, of_mean + 2 * clipped * of_square, most)
                total = total + factor * one.products(along)[0]
        return total

    def _parts(self, items: Positions, shares: Floats) -> list[tuple[float, Any]]:
        """What the items of a step are differentiated as: a factor, a batch and its shares."""
        run = self._run
        if run.unit == "sample":
            weights = torch.as_tensor(shares).to(run.final)
            return [(1.0, (run.placed(run.batches.of_rows(items)), weights))]
        return [(float(s), (run.row(int(i)),)) for s, i in zip(shares, items, strict=True)]

    def _of_all(self, step: int, here: Mixed, of_mean: Tensor, of_square: Tensor) -> Tensor:
        """What the average over all items adds to the adjoint of the weights."""
        run, places, weights = self._run, self._run.places, self._path.states[step].weights
        most = run.recipe.max_grad_norm
        shares = places.shares[places.of_step(step)]
        alone, squares = len(shares) == 1, float((shares**2).sum())
        total = torch.zeros_like(of_mean)
        for item, chance in enumerate(places.chances):
            with self._derivatives.linearised(weights, run.row(item)) as one:
                scale = clip_scale(one.gradient, most) if alone else here.scale
                typical = squares * scale * one.gradient + (1 - squares) * here.mean
                along = of_mean + 2 * typical * of_square
                back = back_through_clip(one.gradient, along, most) if alone else scale * along
                total = total + chance * one.products(back)[0]
        return total


def _effects(step: int, here: Mixed, places: Places, of_mean: Tensor, of_square: Tensor) -> Floats:
    """Effect of every item at the places of a step, shape (n_queries, places of it, n_items)."""
    linear = of_mean @ here.gradients.T
    crossed = (of_square * here.mean) @ here.gradients.T
    squared = of_square @ (here.gradients**2).T
    shares = places.shares[places.of_step(step)]
    effects = [s * linear + s**2 * squared + 2 * s * (1 - s) * crossed for s in shares]
    return torch.stack(effects, dim=1).double().cpu().numpy()


class _Asked(Asked):
    """Sums of look-ups."""

    def __init__(self, values: Floats, places: Places) -> None:
        self._values, self._places = values, places

    def losses(self, orders: Orders) -> Floats:
        here = np.arange(self._places.n_places)
        return np.stack([self._values[:, here, order].sum(axis=1) for order in orders])

    def best(self, seed: int, progress: bool) -> Positions:
        return assigned(self._values.mean(axis=0), self._places)

    def positions(self) -> Floats:
        return self._values
