"""`Pair`: the closed-form pair term: an order's effect as a sum over pairs of places.

Training is linearised around its start theta_0 with the optimizer's scale frozen to a diagonal P,
1 / (sqrt(v) + eps) of Adam and 1 of SGD. With f_l(theta) what the optimizer takes of item l (its
gradient, clipped, and the pull of weight decay), alpha the gradient of a query's loss at the end,
h_l = (df_l / dtheta)^T P alpha, and how far a unit input of step r has moved a weight by step s,

    kappa(s, r) = sum_{t=r}^{s-1} rate_t c(t, r)        c(t, r): share of gradient r in update t

(Adam: c = (1 - b1) b1^(t-r) / (1 - b1^time)), training in an order l ends in the loss

    const - sum_s kappa(T, s) [alpha . P f_{l_s} - d_s h_{l_s} . P m_0]
          + sum_{r<s} kappa(T, s) kappa(s, r) Q[l_s, l_r],              Q[l, i] = h_l . P f_i

where m_0 is the first moment before the first step, which has moved the weights by -d_s P m_0 by
step s. Steps of several items take each with its share, and have no pairs within a step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.errors import NotYetSupportedError
from influence.progress import track
from influence.run import blocks
from llm_influence.order.mean_path import gradients_at
from llm_influence.order.method import Asked, Built, Floats, Method, Orders
from llm_influence.order.places import Places
from llm_influence.order.rules import back_through_clip, clip_scale
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import annealed, shuffled

LOOKUPS = 2**22  # table entries read at a time
CHAINS = 32  # of a search
SAME = 1e-6  # of a group's largest rate: what schedulers' rounding may put between two schedules


@dataclass(frozen=True)
class Pair(Method):
    """The pair term: the published closed form, as a baseline.

    f and h are taken at the recorded start, alpha at the recorded end. P is the mean over steps of
    Adam's scale where v absorbs the mean over the recorded steps of f^2.

    Cost, in retrainings of T steps on N items: build N / T; a query about 2 N / T for N
    Hessian-vector products: about 3 in all for one epoch. An order is then T^2 look-ups in an
    N x N table. Memory: N gradients. `best` tries 20,000 orders.

    When it is wrong: it is the first order of an expansion in rate x steps x curvature, exact to
    rate^3 for gradient descent without momentum. Where that product is not small, as in most
    trainings with Adam at common rates, predictions are several times too large and rank orders
    poorly: see the calibration. What an order does through Adam's second moment is missed, as is
    the curvature of the query's loss between the ends of two orders. Decoupled weight decay is
    left out: it acts on all orders alike but for rate x decay. Clipped steps of several items are
    refused, as are groups of parameters with other schedules or averages of gradients.

    Reference: the Lie bracket of two batches' updates, arXiv:2606.24993.
    """

    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        return _Built(run, progress)


class _Built(Built):
    def __init__(self, run: OptimizerRun, progress: bool) -> None:
        self._run, self._progress = run, progress
        self._derivatives = run.derivatives()
        self._start, self._moments = run.begin()
        self._forces = self._forces_of_items()
        squares = ((_shares(run).to(run.final) @ self._forces) ** 2).mean(dim=0)
        average = AVERAGES[run.recipe.optimizer](run, squares)
        rates, relative = _rates(run)
        self._response = average.response(rates)
        self._scale = average.scale * run.flat.spread(relative, run.final)

    def _forces_of_items(self) -> Tensor:
        """What the optimizer takes of each item, shape (n_items, n)."""
        run, most = self._run, self._run.recipe.max_grad_norm
        gradients = gradients_at(self._derivatives, run, self._start)
        if not _alone(run):
            _check_not_clipped(run, _shares(run).to(gradients) @ gradients)
            return gradients + _pull(run) * self._start
        clipped = [gradient * clip_scale(gradient, most) for gradient in gradients]
        return torch.stack(clipped) + _pull(run) * self._start

    def _bent(self, item: int, directions: Tensor) -> Tensor:
        """Directions times the derivative of an item's force, shape (n_directions, n)."""
        most = self._run.recipe.max_grad_norm if _alone(self._run) else None
        with self._derivatives.linearised(self._start, self._run.row(item)) as here:
            along = back_through_clip(here.gradient, directions, most)
            return here.products(along)[0] + _pull(self._run) * directions

    def ask(self, queries: BatchQueries) -> Asked:
        run, forces = self._run, self._forces
        slopes = [self._derivatives.gradient(run.final, run.placed(b)) for b in queries.batches]
        pulled = torch.stack(slopes) * self._scale  # (n_queries, n)
        carried, pairs = [], []
        for item in track(range(run.n_train), "pair", run.n_train, self._progress):
            one = self._bent(item, pulled) * self._scale
            carried.append(one @ self._moments[0])
            pairs.append(one @ forces.T)
        return _asked(
            _array(pulled @ forces.T),
            _array(torch.stack(carried, dim=1)),
            _array(torch.stack(pairs, dim=1)),
            self._response,
            run.places,
        )


def _asked(
    direct: Floats, carried: Floats, pairs: Floats, response: Floats, places: Places
) -> "_Asked":
    """Tables by place.

    Args:
        direct: alpha . P f_l, shape (n_queries, n_items).
        carried: h_l . P m_0, same shape.
        pairs: Q, shape (n_queries, n_items, n_items).
        response: Of `_Average.response`.
        places: Of the run.
    """
    steps = places.steps
    before, kappa = response[steps, 0], response[:, 1 + steps]  # kappa: (n_steps + 1, n_places)
    last = places.shares * kappa[-1]
    # (n_queries, n_places, n_items)
    straight = direct[:, None] - before[:, None] * carried[:, None]
    both = last[:, None] * kappa[steps] * places.shares
    return _Asked(-last[:, None] * straight, both, pairs, places)


class _Asked(Asked):
    """Sums of look-ups by place and by pair of places."""

    def __init__(self, single: Floats, both: Floats, pairs: Floats, places: Places) -> None:
        self._single, self._both, self._pairs, self._places = single, both, pairs, places

    def losses(self, orders: Orders) -> Floats:
        n = self._places.n_places
        some = blocks(len(orders), LOOKUPS // n**2)
        return np.concatenate([self._block(orders[block]) for block in some])

    def _block(self, orders: Orders) -> Floats:
        here = np.arange(self._places.n_places)
        found = [
            single[here, orders].sum(axis=1)
            + np.einsum("oij,ij->o", pairs[orders[:, :, None], orders[:, None, :]], self._both)
            for single, pairs in zip(self._single, self._pairs, strict=True)
        ]
        return np.stack(found, axis=1)

    def best(self, seed: int, progress: bool) -> NDArray[np.int64]:
        single, pairs = (table.mean(axis=0)[None] for table in (self._single, self._pairs))
        mean = _Asked(single, self._both, pairs, self._places)
        begin = shuffled(self._places, CHAINS, seed)
        return annealed(lambda orders: mean.losses(orders)[:, 0], begin, self._places, seed)


@dataclass(frozen=True, eq=False)
class _Average:
    """How an optimizer averages gradients: buffer' = beta buffer + kept gradient.

    Attributes:
        beta: What stays of the buffer.
        kept: What of the gradient enters it, shape (n_steps,).
        correction: The update is divided by it, shape (n_steps,).
        ahead: The update is gradient + beta buffer' (Nesterov), not buffer'.
        scale: P, shape (n,) or a number.
    """

    beta: float
    kept: Floats
    correction: Floats
    ahead: float
    scale: Tensor | float

    def response(self, rates: Floats) -> Floats:
        """kappa: how far unit inputs have moved a weight before each step and after the last.

        Args:
            rates: Of every step.

        Returns:
            Shape (n_steps + 1, 1 + n_steps): of the first buffer, then of every step's gradient.
        """
        n = len(rates)
        moved, buffer = np.zeros((n + 1, n + 1)), np.zeros(n + 1)
        buffer[0] = 1
        for t, rate in enumerate(rates):
            buffer = self.beta * buffer
            buffer[t + 1] += self.kept[t]
            used = self.beta * buffer if self.ahead else buffer.copy()
            used[t + 1] += self.ahead
            moved[t + 1] = moved[t] + rate * used / self.correction[t]
        return moved


def _adam(run: OptimizerRun, squares: Tensor) -> _Average:
    """P is the mean over steps of 1 / (sqrt(v) + eps), where v absorbs the mean squares."""
    rule = run.rule()
    beta, _ = _same(run, "betas")
    b2 = run.flat.spread([group["betas"][1] for group in rule.groups], squares)
    v, scale = run.begin()[1][1], torch.zeros_like(squares)
    times = rule.taken + 1 + np.arange(run.n_steps)
    for time in times:
        v = b2 * v + (1 - b2) * squares
        root = (v / (1 - b2 ** int(time))).sqrt()
        scale += 1 / (root + rule.option("eps", squares)) / run.n_steps
    return _Average(beta, np.full(run.n_steps, 1 - beta), 1 - beta**times, 0, scale)


def _momentum(run: OptimizerRun, squares: Tensor) -> _Average:
    beta = _same(run, "momentum")
    damped = np.full(run.n_steps, _same(run, "dampening") if beta else 0.0)
    if run.rule().taken == 0:
        damped[0] = 0
    return _Average(beta, 1 - damped, np.ones(run.n_steps), _same(run, "nesterov"), 1.0)


AVERAGES: dict[str, Callable[[OptimizerRun, Tensor], _Average]] = {
    "Adam": _adam, "AdamW": _adam, "SGD": _momentum,
}  # fmt: skip


def _same(run: OptimizerRun, option: str) -> Any:
    """An option that all groups share.

    Raises:
        NotYetSupportedError: They do not.
    """
    first, *others = [group[option] for group in run.recipe.groups]
    if any(other != first for other in others):
        raise NotYetSupportedError(
            f"Pair expects groups of parameters with the same {option}, got {[first, *others]}; "
            'take SampleOrder("mean_field").'
        )
    return first


def _rates(run: OptimizerRun) -> tuple[Floats, Floats]:
    """The rate of every step in the leading group, and each group's relative to it.

    Raises:
        NotYetSupportedError: The groups' rates are not in the same proportion at every step.
    """
    rates = np.array(run.recipe.rates)  # (n_steps, n_groups)
    rates = rates * np.isin(np.arange(rates.shape[1]), run.flat.groups)  # others are frozen
    total = rates.sum(axis=0)
    lead = int(total.argmax())
    relative = total / (total[lead] or 1.0)  # rates of 0 throughout: no order has an effect
    apart = rates - rates[:, [lead]] * relative
    wrong = (np.abs(apart) > SAME * rates.max(axis=0)).any(axis=0)
    if wrong.any():
        of_group = apart[:, wrong.argmax()]
        one, other = sorted((int(of_group.argmin()), int(of_group.argmax())))
        raise NotYetSupportedError(
            "Pair expects groups of parameters with the same schedule, their learning rates in one "
            f"proportion at all steps, got {rates[one].tolist()} at step {one} and "
            f'{rates[other].tolist()} at step {other}; take SampleOrder("mean_field").'
        )
    return rates[:, lead], relative


def _pull(run: OptimizerRun) -> Tensor | float:
    """Weight decay that is added to the gradient."""
    return run.rule().decays(run.final)[0]


def _alone(run: OptimizerRun) -> bool:
    """Whether each step takes one item."""
    return run.places.n_places == run.n_steps


def _shares(run: OptimizerRun) -> Tensor:
    """What each item counts in each recorded step, shape (n_steps, n_items)."""
    places = run.places
    shares = np.zeros((run.n_steps, places.n_items))
    np.add.at(shares, (places.steps, places.recorded), places.shares)
    return torch.from_numpy(shares)


def _check_not_clipped(run: OptimizerRun, steps: Tensor) -> None:
    """Steps of several items are clipped together, which is no sum over the items.

    Args:
        run: The run.
        steps: Gradients of its steps, shape (n_steps, n).

    Raises:
        NotYetSupportedError: Some are clipped.
    """
    most, norm = run.recipe.max_grad_norm, float(steps.norm(dim=1).max())
    if most is not None and norm > most:
        raise NotYetSupportedError(
            f"Pair expects steps of several items that are not clipped, got max_grad_norm={most} "
            f'and gradients of norm up to {norm:.3g}; take unit="batch" with one batch a step, or '
            'SampleOrder("mean_field").'
        )


def _array(table: Tensor) -> Floats:
    return table.double().cpu().numpy()
