"""`MeanField`: the effect of every item at every place, around the order-averaged training.

A virtual run takes at each step the average over items: m absorbs the mean of their gradients and v
the mean of their squares, so that its path depends on no order. With weights alpha[t, l] on item l
at place t, the derivative of a query's loss by alpha at the average is

    A[t, l] = <d mean, g_l(w_t)> s + <d square, S_l(w_t)>

where d mean and d square are the adjoints of what the step absorbs, swept backwards along the path
with the Hessian of one random step, s is the share of the place, and S_l the part of the squared
gradient of a step that is due to item l: g_l^2 for steps of one item, and for more the first order
of its decomposition over the items of the step. An order's loss is, up to a constant, the sum over
places of A[t, order[t]].
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.checks import check_whole
from influence.progress import track
from llm_influence.order.method import Asked, Built, Floats, Method, Orders
from llm_influence.order.places import Places
from llm_influence.order.rewind import rewind
from llm_influence.order.rules import Moments, back_through_clip, clip_scale
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import assigned

Positions = NDArray[np.int64]


class _State(NamedTuple):
    weights: Tensor
    moments: Moments


@dataclass(frozen=True)
class MeanField(Method):
    """The order-averaged sweep.

    Cost, in retrainings: build `draws`; about 3 for the sweep of one query and `n_places` /
    `accumulate` for the gradients of all items along the path. An order is then a sum of look-ups.

    Attributes:
        draws: Random steps whose average each step of the virtual run takes.
    """

    draws: int = 4

    def __post_init__(self) -> None:
        check_whole("draws", self.draws, least=1)

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        return _Built(run, self.draws, seed, progress)


class _Built(Built):
    def __init__(self, run: OptimizerRun, draws: int, seed: int, progress: bool) -> None:
        self._run, self._draws, self._seed, self._progress = run, draws, seed, progress
        self._derivatives, self._rule = run.derivatives(), run.rule()
        self._rows = [run.row(i) for i in range(run.n_train)]

    def ask(self, queries: BatchQueries) -> Asked:
        run, places = self._run, self._run.places
        found = np.zeros((queries.n_queries, places.n_places, places.n_items))
        states = rewind(_State(*run.begin()), self._advance, run.n_steps)
        _, last = next(states)
        slopes = [self._derivatives.gradient(last.weights, run.placed(b)) for b in queries.batches]
        first = torch.stack(slopes)
        adjoints = (first, *(torch.zeros_like(first) for _ in last.moments))
        for step, state in track(states, "mean field", run.n_steps, self._progress):
            adjoints = self._back(step, state, adjoints, found)
        return _Asked(found, places)

    def _advance(self, step: int, state: _State) -> _State:
        """One step of the average run."""
        mean, square = self._absorbed(step, state.weights)
        return _State(*self._rule.update(*state, mean, square, step))

    def _absorbed(self, step: int, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over random steps of the clipped gradient and of its square."""
        mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
        for drawn in self._drawn(step):
            gradient = self._step_gradient(step, weights, drawn)
            gradient = gradient * clip_scale(gradient, self._run.recipe.max_grad_norm)
            mean, square = mean + gradient / self._draws, square + gradient**2 / self._draws
        return mean, square

    def _drawn(self, step: int) -> Positions:
        """The items of some random steps, shape (draws, n_places of the step)."""
        places = self._run.places
        rng = np.random.default_rng([self._seed, step])
        here = places.of_step(step)
        pool = np.repeat(np.arange(places.n_items), places.counts)
        return np.stack(
            [rng.choice(pool, here.stop - here.start, replace=False) for _ in range(self._draws)]
        )

    def _step_gradient(self, step: int, weights: Tensor, items: Positions) -> Tensor:
        shares = self._run.places.shares[self._run.places.of_step(step)]
        total = torch.zeros_like(weights)
        for item, share in zip(items, shares, strict=True):
            total = total + share * self._derivatives.gradient(weights, self._rows[item])
        return total

    def _back(
        self, step: int, state: _State, adjoints: tuple[Tensor, ...], found: Floats
    ) -> tuple[Tensor, ...]:
        """Adjoints before a step from those after it; fills in the step's places."""
        mean, square = self._absorbed(step, state.weights)
        partials = self._rule.partials(*state, mean, square, step)
        weights, *moments, of_mean, of_square = partials.back(adjoints)
        self._fill(step, state.weights, of_mean, of_square, found)
        items = self._drawn(step)[0]
        return (weights + self._bent(step, state.weights, items, of_mean, of_square), *moments)

    def _fill(
        self, step: int, weights: Tensor, of_mean: Tensor, of_square: Tensor, found: Floats
    ) -> None:
        """The effect of every item at every place of a step."""
        places, counts = self._run.places, self._run.places.counts
        here = places.of_step(step)
        alone = here.stop - here.start == 1
        gradients = [self._derivatives.gradient(weights, row) for row in self._rows]
        average = sum(g * (c / counts.sum()) for g, c in zip(gradients, counts, strict=True))
        most = self._run.recipe.max_grad_norm
        typical = 1.0 if alone else self._typical_scale(step, weights)
        for item, gradient in enumerate(gradients):
            scale = clip_scale(gradient, most) if alone else typical
            for place in range(here.start, here.stop):
                share = self._run.places.shares[place]
                own = share * scale * gradient
                others = (1 - share) * scale * average
                effect = of_mean @ own + of_square @ (own**2 + 2 * own * others)
                found[:, place, item] = effect.double().cpu().numpy()

    def _typical_scale(self, step: int, weights: Tensor) -> float:
        """Mean of what clipping multiplies the gradients of random steps by."""
        most = self._run.recipe.max_grad_norm
        if most is None:
            return 1.0
        drawn = [self._step_gradient(step, weights, items) for items in self._drawn(step)]
        return float(np.mean([float(clip_scale(gradient, most)) for gradient in drawn]))

    def _bent(
        self, step: int, weights: Tensor, items: Positions, of_mean: Tensor, of_square: Tensor
    ) -> Tensor:
        """What the gradients of one random step add to the adjoint of the weights."""
        shares = self._run.places.shares[self._run.places.of_step(step)]
        most = self._run.recipe.max_grad_norm
        gradient = self._step_gradient(step, weights, items)
        clipped = gradient * clip_scale(gradient, most)
        along = back_through_clip(gradient, of_mean + 2 * clipped * of_square, most)
        total = torch.zeros_like(along)
        for item, share in zip(items, shares, strict=True):
            with self._derivatives.linearised(weights, self._rows[item]) as here:
                total = total + share * here.products(along)[0]
        return total


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
