"""`Reduced`: a training near the average one in K numbers, and the replay of orders in it.

Index table: t step, p place, i item, k knot, f feature of a square, a and b columns of the basis.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from influence.errors import UnsupportedModelError
from llm_influence.order.basis import Basis
from llm_influence.order.contexts import tried
from llm_influence.order.mean_path import MeanPath
from llm_influence.order.method import Floats, Orders
from llm_influence.order.places import Places
from llm_influence.order.rules import Partials
from llm_influence.order.run import OptimizerRun

MANY = 16  # orders for each item from which those of an item are taken together


@dataclass(frozen=True, eq=False)
class Squares:
    """What the gradients' squares do through v, to first order.

    A place p with item i adds `counts[p, f]` of each feature f of i to the squares of its step.

    Attributes:
        counts: Shape (n_places, n_features).
        kept: Share of v that a step keeps, shape (n_steps,).
        taken: Share of the square that it takes, likewise.
        moves: What v after step t does to x at step t, by feature and item, shape
            (n_steps, n_features * n_items, K).
    """

    counts: Tensor
    kept: list[float]
    taken: list[float]
    moves: Tensor


@dataclass(frozen=True, eq=False)
class Reduced:
    """What a replay of an order needs.

    Attributes:
        maps: From (x, m, gradient) to (x, m), of every step, shape (n_steps, 3 K, 2 K).
        slopes: Gradient of every item before every step less the average, shape
            (n_steps, n_items, K); None where there are pushes.
        squares: None where the rule has no v, and where there are pushes.
        curved: How the gradient of every item changes with x at every knot, shape
            (n_knots, n_items, K, K).
        between: What each knot counts at every step, shape (n_steps, n_knots).
        places: Of the run.
        pushes: What items at places move x by at every step, each shape (n_places so far, n_items,
            K); the gradients that `maps` take are what curvature makes of x alone then.
    """

    maps: Tensor
    slopes: Tensor | None
    squares: Squares | None
    curved: Tensor
    between: Tensor
    places: Places
    pushes: Sequence[Tensor] | None = None

    def replayed(self, orders: Orders) -> Tensor:
        """Deviations from the average training's end, shape (n_orders, K)."""
        n, (_, n_items, k, _) = len(orders), self.curved.shape
        x = self.curved.new_zeros((n, k))
        m = torch.zeros_like(x)
        seen = _Seen(self.squares, n, n_items, x)
        for step, maps in enumerate(self.maps):
            curved = torch.einsum("k,kiab->iab", self.between[step], self.curved)
            gradient = torch.zeros_like(x)
            here = self.places.of_step(step)
            for place in range(here.start, here.stop):
                items = orders[:, place]
                own = _times(curved, items, x)
                if self.slopes is not None:
                    own = own + self.slopes[step][torch.from_numpy(items)]
                gradient = gradient + float(self.places.shares[place]) * own
            x, m = (torch.cat([x, m, gradient], dim=1) @ maps).split(k, dim=1)
            x = x + seen.moved(step, orders[:, here], here)
            if self.pushes is not None:
                x = x + _pushed(self.pushes[step], orders[:, : here.stop])
        return x


class _Seen:
    """The features of squares in v so far."""

    def __init__(self, squares: Squares | None, n: int, n_items: int, like: Tensor) -> None:
        self._squares, self._n_items = squares, n_items
        n_features = 0 if squares is None else squares.counts.shape[1]
        self._held = like.new_zeros((n, n_features * n_items))

    def moved(self, step: int, items: Orders, here: slice) -> Tensor | float:
        """What v does to x at this step, which takes these items, shape (n_orders, K)."""
        squares = self._squares
        if squares is None:
            return 0.0
        counts = squares.taken[step] * squares.counts[here]  # (n_places, n_features)
        columns = self._n_items * np.arange(counts.shape[1]) + items[:, :, None]
        taken = torch.from_numpy(columns).to(counts.device).flatten(1)
        self._held *= squares.kept[step]
        self._held.scatter_add_(1, taken, counts.flatten().expand(len(items), -1))
        return self._held @ squares.moves[step]


def _times(curved: Tensor, items: Orders, x: Tensor) -> Tensor:
    """The change of the gradient of each order's item at its x, shape (n_orders, K)."""
    if len(x) < MANY * len(curved):
        return torch.bmm(curved[torch.from_numpy(items).to(x.device)], x[:, :, None])[:, :, 0]
    bent = torch.empty_like(x)
    for item in np.unique(items):
        rows = torch.from_numpy(np.flatnonzero(items == item)).to(x.device)
        bent[rows] = x[rows] @ curved[item].T
    return bent


def _pushed(pushes: Tensor, items: Orders) -> Tensor:
    """Sums over places of the push of each order's item, shape (n_orders, K)."""
    _, n_items, k = pushes.shape
    rows = torch.from_numpy(items + n_items * np.arange(items.shape[1])).to(pushes.device)
    return torch.nn.functional.embedding_bag(rows, pushes.view(-1, k), mode="sum")


def pushes(
    run: OptimizerRun, path: MeanPath, basis: Basis, n_contexts: int, seed: int, progress: bool
) -> list[Tensor]:
    """See `Reduced`; their mean over items is 0, as the path is the mean."""
    places, into = run.places, basis.inverse
    ends = [places.of_step(step).stop for step in range(run.n_steps)]
    found = [into.new_zeros((end, run.n_train, basis.n)) for end in ends]
    for k in range(n_contexts):
        for one in tried(run, path, seed + k, progress):
            found[one.step][one.places] += one.changes @ into[one.columns] / n_contexts
    chances = torch.from_numpy(places.chances).to(into)
    return [one - torch.einsum("i,pik->pk", chances, one)[:, None] for one in found]


def maps(basis: Basis, steps: Sequence[Partials]) -> Tensor:
    """See `Reduced`. m is reduced like a gradient, whose running mean it is."""
    found = []
    for one in steps:
        momentum = one.table[1]
        to_x = [(_to_weights(one, 0), 0), (_to_weights(one, 1), -1), (_to_weights(one, -2), -1)]
        to_m = [(momentum[0], 1), (momentum[1], 0), (momentum[-2], 0)]
        both = [torch.cat([basis.inside(*part).T for part in to]) for to in (to_x, to_m)]
        found.append(torch.cat(both, dim=1))
    return torch.stack(found)


def _to_weights(one: Partials, j: int) -> Tensor | None:
    """Derivative of the weights by input j, where v after the step stays as it is."""
    to_square = one.table[2][j] if len(one.table) == 3 else None
    if to_square is None:
        return one.table[0][j]
    by, by_square, taken = one.table[0][j], one.table[0][-1], one.table[2][-1]
    assert by is not None and by_square is not None and taken is not None
    return by - by_square * to_square / taken


def slopes(basis: Basis, path: MeanPath) -> Tensor:
    """See `Reduced`."""
    mixtures = map(path.at, range(path.places.n_steps))
    return torch.stack([basis.slope(here.gradients - here.mean) for here in mixtures])


def squares(basis: Basis, path: MeanPath, steps: Sequence[Partials]) -> Squares | None:
    """See `Squares`. Features are, at each knot of the path, the squares g^2 and g times mean.

    Raises:
        UnsupportedModelError: The optimizer's groups have different betas.
    """
    if len(steps[0].table) < 3:
        return None
    kept, taken = ([_constant(one.table[2][j]) for one in steps] for j in (2, -1))
    features = torch.cat([_features(path, steps[knot], knot) for knot in path.knots])
    at = between(path.places.n_steps, list(path.knots))[path.places.steps]  # (n_places, n_knots)
    shares = path.places.shares
    kinds = np.stack([shares**2, 2 * shares * (1 - shares)], axis=1)  # (n_places, 2)
    counts = np.einsum("pk,pj->pkj", at, kinds).reshape(len(at), -1)
    used = counts.any(axis=0)
    features, counts = features[torch.from_numpy(used)], counts[:, used]
    moves = []
    for one, share in zip(steps, taken, strict=True):
        by_square = one.table[0][-1]
        assert by_square is not None
        moves.append(basis.moved(by_square / share * features.flatten(0, 1)))
    return Squares(torch.from_numpy(counts).to(basis.scale), kept, taken, torch.stack(moves))


def _features(path: MeanPath, one: Partials, knot: int) -> Tensor:
    """g^2 and g mean of all items less their averages, shape (2, n_items, n).

    Decay that Adam adds to the gradient is part of it.
    """
    here = path.at(knot)
    by_mean, by_square = one.table[2][-2:]
    pull = 0.0 if by_mean is None or by_square is None else by_mean / (2 * by_square)
    gradients, mean = here.gradients + pull, here.mean + pull
    both = torch.stack([gradients**2, gradients * mean])
    chances = torch.from_numpy(path.places.chances).to(both)
    return both - torch.einsum("i,jin->jn", chances, both)[:, None]


def _constant(diagonal: Tensor | None) -> float:
    """The number on a diagonal that has one number."""
    if diagonal is None or not torch.allclose(diagonal, diagonal[:1]):
        raise UnsupportedModelError(
            "Expected groups of the optimizer with the same betas, got others; Galerkin with "
            'contexts, and method "mean_field", answer those.'
        )
    return float(diagonal[0])


def between(n_steps: int, knots: Sequence[int]) -> Floats:
    """What each knot counts at every step, shape (n_steps, n_knots): linear between them."""
    steps, n = np.arange(n_steps), len(knots)
    return np.stack([np.interp(steps, knots, np.eye(n)[k]) for k in range(n)], axis=1)


def both_squares(first: Squares | None, other: Squares | None) -> Squares | None:
    """The columns of both."""
    if first is None or other is None:
        return None
    return replace(first, moves=torch.cat([first.moves, other.moves], dim=-1))
