"""`Taylor`: another order replayed with gradients expanded around the one recorded path.

theta_t are the recorded weights, gamma_t those of another order, which takes batch l at step t with

    g = G[t, l] + H_l(theta_t) (gamma_t - theta_t) + (1/2) D^3 L_l(theta_t) (gamma_t - theta_t)^2

up to the chosen order; G[t, l] is the gradient of batch l at theta_t. The optimizer's own update
then makes gamma_{t+1} of gamma_t, and the queries' real losses are taken at the last gamma.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import factorial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.checks import check_whole
from influence.errors import InputError, TrainingDataError
from influence.progress import track
from influence.run import blocks
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.mean_path import State, advanced, states_of
from llm_influence.order.method import Asked, Built, Floats, Method, Orders
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import annealed, shuffled

TOGETHER = 32  # orders that are replayed side by side
TRIED = 256  # orders that a search tries
BESIDE = 1 / 8  # of a move: where third derivatives along it are taken


@dataclass(frozen=True)
class Taylor(Method):
    """The published estimator, as a baseline: Taylor expansions around the recorded order.

    With exact moments the error of the last weights falls as rate^2, rate^3, rate^4 for orders 0,
    1, 2 with products; with reference moments as rate^1, whatever the order.

    Cost, in retrainings of T steps on N items: without `keep` nothing is built, and a call about
    orders takes min(N, number of orders) + 1 for order 0; order 1 with products takes about 2 for
    each order more, order 2 about 6; differences take N + 1 and hold N x (order + 1) gradients.
    With `keep`, N to build, and an order takes as many updates as steps and the queries' losses.
    Storage with `keep`: T x N x (order + 1) vectors of `keep` numbers, and the T recorded states.
    `best` tries 256 orders.

    When it is wrong: order 0 knows nothing of the curvature in which every effect of an order of
    plain gradient descent begins. Elementwise differences divide by weights that hardly moved, and
    can explode. What projection adds to each entry of a gradient g has the variance
    |g|^2 / keep, more than most entries' own squares; Adam's square root of the second moment
    keeps it as a bias.

    The paper expands the whole update; here the gradient in it is expanded, which is the same in
    first order.

    Reference: arXiv:2505.22042.

    Attributes:
        order: Of the expansion of the gradients: 0, 1 or 2.
        moments: "reference", as published: each step takes the moments that the recorded training
            had then, so that only its own gradient is of the new order; or "exact", carried along
            the new order.
        curvature: "differences", as published: elementwise quotients of differences of gradients
            and weights between consecutive recorded states; or "products", full derivatives along
            gamma_t - theta_t, from Hessian-vector products.
        keep: Store all terms: "all" as they are, a number k as random projections to k numbers,
            which their transpose expands again; None recomputes them in each call.
    """

    order: Literal[0, 1, 2] = 1
    moments: Literal["exact", "reference"] = "reference"
    curvature: Literal["differences", "products"] = "differences"
    keep: int | Literal["all"] | None = None

    def __post_init__(self) -> None:
        allowed = {
            "order": (0, 1, 2),
            "moments": ("exact", "reference"),
            "curvature": ("differences", "products"),
        }
        for name, values in allowed.items():
            if (given := getattr(self, name)) not in values or isinstance(given, bool):
                raise InputError(f"{name} must be one of {values}, got {given!r}.")
        if isinstance(self.keep, str) and self.keep != "all":
            raise InputError(f'keep must be "all", a whole number or None, got {self.keep!r}.')
        if self.keep not in ("all", None):
            check_whole("keep", self.keep, least=1)
        if self.keep is not None and self.order and self.curvature == "products":
            raise InputError(
                "Expected terms that can be stored, but products of matrices with vectors not yet "
                'known cannot: take keep=None, or curvature="differences".'
            )

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> "Replayed":
        steps: Callable[[], Iterable[Step]]
        if self.keep is not None:
            terms = _differences(run, self.order, _projection(self.keep, run, seed))
            kept = list(track(terms, "taylor", run.n_steps, progress))
            steps = partial(iter, kept)
        elif self.order == 0 or self.curvature == "products":
            steps = partial(_products, run, self.order)
        else:
            steps = partial(_differences, run, self.order, None)
        return Replayed(run, steps, self.moments == "exact")


# From an item and moves of the weights, shape (k, n), to its expanded gradients, same shape.
Expansion = Callable[[int, Tensor], Tensor]
# The recorded state before a step, and the items' gradients around it.
Step = tuple[State, Expansion]


class Replayed(Built):
    """Replays orders; made by `Taylor`."""

    def __init__(self, run: OptimizerRun, steps: Callable[[], Iterable[Step]], exact: bool) -> None:
        self._run, self._steps, self._exact = run, steps, exact

    def ask(self, queries: BatchQueries) -> Asked:
        return _Asked(self, self._run, queries)

    def ends(self, orders: Orders) -> list[Tensor]:
        """Estimated weights after training in each order, each shape (n,).

        Args:
            orders: An item for every place, shape (n_orders, n_places).
        """
        rule = self._run.rule()
        states = [State(*self._run.begin()) for _ in orders]
        for step, (recorded, expansion) in enumerate(self._steps()):
            moves = torch.stack([state.weights - recorded.weights for state in states])
            gradients = self._gradients(step, orders, moves, expansion)
            for i, gradient in enumerate(gradients):
                moments = states[i].moments if self._exact else recorded.moments
                before = State(states[i].weights, moments)
                states[i] = advanced(self._run, rule, before, gradient, step)
        return [state.weights for state in states]

    def _gradients(self, step: int, orders: Orders, moves: Tensor, expansion: Expansion) -> Tensor:
        """The estimated gradient of a step in each order, shape (n_orders, n)."""
        here = self._run.places.of_step(step)
        total = torch.zeros_like(moves)
        for item in np.unique(orders[:, here]):
            counted = (orders[:, here] == item) @ self._run.places.shares[here]  # (n_orders,)
            taken = np.flatnonzero(counted)
            factors = torch.from_numpy(counted[taken]).to(moves)
            total[taken] += factors[:, None] * expansion(int(item), moves[taken])
        return total


class _Asked(Asked):
    """Real losses at estimated weights."""

    def __init__(self, built: Replayed, run: OptimizerRun, queries: BatchQueries) -> None:
        self._built, self._run, self._queries = built, run, queries

    def losses(self, orders: Orders) -> Floats:
        some = blocks(len(orders), TOGETHER)
        ends = [end for block in some for end in self._built.ends(orders[block])]
        found = np.stack([self._run.losses_at(end, self._queries) for end in ends])
        if not np.isfinite(found).all():
            raise TrainingDataError(
                f"Expected estimated weights of finite loss, but those of order "
                f"{np.flatnonzero(~np.isfinite(found).all(axis=1))[0]} have none: the expansion "
                'around the recorded run diverged. Take curvature="products", order 0, or another '
                "method of SampleOrder."
            )
        return found

    def best(self, seed: int, progress: bool) -> NDArray[np.int64]:
        begin = shuffled(self._run.places, TOGETHER // 2, seed)

        def mean_losses(orders: Orders) -> Floats:
            return self.losses(orders).mean(axis=1)

        return annealed(mean_losses, begin, self._run.places, seed, TRIED)


def _products(run: OptimizerRun, order: int) -> Iterator[Step]:
    """Full derivatives along the moves that are asked about."""
    derivatives = run.derivatives()
    for state in islice(states_of(run), run.n_steps):

        def expansion(item: int, moves: Tensor, weights: Tensor = state.weights) -> Tensor:
            return _expanded(derivatives, weights, run.row(item), moves, order)

        yield state, expansion


def _expanded(
    derivatives: Derivatives, weights: Tensor, batch: Any, moves: Tensor, order: int
) -> Tensor:
    """Taylor polynomials of a batch's gradient, shape (n_moves, n).

    The third derivative is a central difference of Hessian-vector products: automatic third
    derivatives of torch's layer normalisation are wrong, without an error (torch 2.13).
    """
    if order == 0:
        return derivatives.gradient(weights, batch).expand_as(moves)

    def bent(at: Tensor, along: Tensor) -> Tensor:
        with derivatives.linearised(at, batch) as here:
            return here.products(along)[0]

    with derivatives.linearised(weights, batch) as here:
        found = here.gradient + here.products(moves)[0]
    if order == 1:
        return found
    third = [
        bent(weights + BESIDE * move, move[None]) - bent(weights - BESIDE * move, move[None])
        for move in moves
    ]
    return found + torch.cat(third) / (4 * BESIDE)


def _differences(run: OptimizerRun, order: int, projection: "_Projection | None") -> Iterator[Step]:
    """Elementwise polynomials around each recorded state, projected where asked."""
    derivatives = run.derivatives()
    rows = [run.row(i) for i in range(run.n_train)]
    terms: list[list[Tensor]] = [[] for _ in rows]
    before = run.begin()[0]
    for state in islice(states_of(run), run.n_steps):
        for i, row in enumerate(rows):
            gradient = derivatives.gradient(state.weights, row)
            terms[i] = _divided(gradient, terms[i][:order], state.weights - before)
        before = state.weights
        yield state, _Polynomials([_shrunk(one, projection) for one in terms], projection)


def _divided(gradient: Tensor, older: Sequence[Tensor], gap: Tensor) -> list[Tensor]:
    """A gradient and its elementwise derivatives, each the divided difference of the one before.

    There is none without a state before, and it is 0 where a weight has not moved.
    """
    terms = [gradient]
    for term in older:
        terms.append(torch.where(gap == 0, 0.0, (terms[-1] - term) / gap))
    return terms


@dataclass(frozen=True, eq=False)
class _Polynomials:
    """The items' gradients as elementwise polynomials of the move.

    Attributes:
        terms: Of each item the gradient and its derivatives, as they are stored.
        projection: That they were stored by; None where they are whole.
    """

    terms: Sequence[Sequence[Tensor]]
    projection: "_Projection | None"

    def __call__(self, item: int, moves: Tensor) -> Tensor:
        total = torch.zeros_like(moves)
        for k, term in enumerate(self.terms[item]):
            whole = term if self.projection is None else self.projection.expand(term)
            total += whole * moves**k / factorial(k)
        return total


@dataclass(frozen=True, eq=False)
class _Projection:
    """A sparse Johnson-Lindenstrauss projection P: one entry +-1 in each column, E[P^T P] = I.

    Attributes:
        size: Numbers that a vector is projected to.
        rows: The row of each column's entry, shape (n,).
        signs: The entries, shape (n,).
    """

    size: int
    rows: Tensor
    signs: Tensor

    def shrink(self, vector: Tensor) -> Tensor:
        return vector.new_zeros(self.size).index_add_(0, self.rows, self.signs * vector)

    def expand(self, projected: Tensor) -> Tensor:
        return self.signs * projected[self.rows]


def _projection(keep: int | Literal["all"], run: OptimizerRun, seed: int) -> _Projection | None:
    n = run.flat.n
    if keep == "all" or keep >= n:
        return None
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(rng.integers(keep, size=n)).to(run.final.device)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], size=n)).to(run.final)
    return _Projection(keep, rows, signs)


def _shrunk(terms: list[Tensor], projection: _Projection | None) -> list[Tensor]:
    return terms if projection is None else [projection.shrink(term) for term in terms]
