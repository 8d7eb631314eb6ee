"""The training that no order shapes: mean path over orders, and gradients of all items along it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from influence.change import Reordered
from influence.progress import track
from llm_influence.order.derivatives import Derivatives
from llm_influence.order.method import Trained
from llm_influence.order.places import Places
from llm_influence.order.rules import Moments, Rule, clip_scale
from llm_influence.order.run import OptimizerRun
from llm_influence.order.search import Orders, balanced


class State(NamedTuple):
    """Before a step, or after the last one."""

    weights: Tensor
    moments: Moments


class Mixed(NamedTuple):
    """What a step absorbs on average over items.

    Attributes:
        mean: Of the gradient, shape (n,).
        square: Mean of its square; a step of several items draws each by itself.
        gradients: Of the items, as clipped, shape (n_items, n).
        scale: What clipping multiplies the gradient of a step of several items by.
    """

    mean: Tensor
    square: Tensor
    gradients: Tensor
    scale: Tensor | float


@dataclass(frozen=True, eq=False)
class MeanPath:
    """States along the mean training, and the items' gradients at some of them.

    Attributes:
        states: Before each step and after the last.
        knots: Steps whose gradients are kept, ascending.
        tables: At each knot, shape (n_items, n).
        places: Of the run.
        most: Norm that gradients are clipped to.
        trained: The real trainings that the states are the means of; None of a virtual one.
    """

    states: list[State]
    knots: Sequence[int]
    tables: list[Tensor]
    places: Places
    most: float | None
    trained: Trained | None = None

    def at(self, step: int) -> Mixed:
        """What the step absorbs; between knots gradients are interpolated in time."""
        i = max(0, int(np.searchsorted(self.knots, step, side="right")) - 1)
        gradients = self.tables[i]
        if step > self.knots[i] and i + 1 < len(self.knots):
            share = (step - self.knots[i]) / (self.knots[i + 1] - self.knots[i])
            gradients = torch.lerp(gradients, self.tables[i + 1], share)
        return mixed(gradients, self.places, step, self.most)


def spaced(n_steps: int, n: int) -> list[int]:
    """At most n steps, evenly spaced from the first to the last."""
    return np.unique(np.rint(np.linspace(0, n_steps - 1, n))).astype(int).tolist()


def mixed(gradients: Tensor, places: Places, step: int, most: float | None) -> Mixed:
    """Averages over items, each as often as it is trained on.

    With shares s of the places of the step, square = mean^2 + sum s^2 times the variance over
    items. The items of a step of one are clipped one by one; the gradient of a step of several by
    its root mean square norm.

    Args:
        gradients: Of all items, shape (n_items, n).
        places: Of the run.
        step: Its places count.
        most: Norm that gradients are clipped to; None for no clipping.
    """
    chances = torch.as_tensor(places.chances).to(gradients)
    shares = places.shares[places.of_step(step)]
    alone, squares = len(shares) == 1, float((shares**2).sum())
    if alone and most is not None:
        gradients = torch.stack([one * clip_scale(one, most) for one in gradients])
    mean = chances @ gradients
    square = mean**2 + squares * (chances @ (gradients - mean) ** 2)
    if alone or most is None:
        return Mixed(mean, square, gradients, 1.0)
    scale = (most / (square.sum().sqrt() + 1e-6)).clamp(max=1.0)
    return Mixed(scale * mean, scale**2 * square, scale * gradients, scale)


def gradients_at(derivatives: Derivatives, run: OptimizerRun, weights: Tensor) -> Tensor:
    """Of every item, shape (n_items, n)."""
    return torch.stack([derivatives.gradient(weights, run.row(i)) for i in range(run.n_train)])


def virtual_path(
    run: OptimizerRun, knots: Sequence[int], progress: bool, drawn: Orders | None = None
) -> MeanPath:
    """Each step absorbs the average over all items: n_items gradients a step.

    Args:
        run: The run.
        knots: Steps whose gradients are kept; the first is among them.
        progress: Show a bar.
        drawn: Orders whose items at a step other than the knots say by how much the gradients of
            all have changed since the last knot: that many gradients a step instead.
    """
    derivatives, rule, state = run.derivatives(), run.rule(), State(*run.begin())
    states, tables = [state], []
    for step in track(range(run.n_steps), "mean path", run.n_steps, progress):
        if step in knots or drawn is None:
            gradients = gradients_at(derivatives, run, state.weights)
        else:
            items = drawn[:, run.places.of_step(step)].ravel()
            moved = [derivatives.gradient(state.weights, run.row(int(i))) for i in items]
            last = tables[-1]
            gradients = last + (torch.stack(moved) - last[items]).mean(dim=0)
        if step in knots:
            tables.append(gradients)
        here = mixed(gradients, run.places, step, run.recipe.max_grad_norm)
        state = State(*rule.update(*state, here.mean, here.square, step))
        states.append(state)
    return MeanPath(states, knots, tables, run.places, run.recipe.max_grad_norm)


def real_path(
    run: OptimizerRun, n_orders: int, knots: Sequence[int], seed: int, progress: bool
) -> MeanPath:
    """The mean state of real trainings: n_orders retrainings, and n_items gradients a knot."""
    totals: list[Tensor] = []
    ends: list[Tensor] = []
    orders = balanced(run.places, n_orders, seed)
    for order in track(orders, "mean path", n_orders, progress):
        path = [torch.stack((s.weights, *s.moments)) for s in states_of(run, Reordered(order))]
        totals = [a + b for a, b in zip(totals, path, strict=True)] if totals else path
        ends.append(path[-1][0].clone())
    means = [total / n_orders for total in totals]
    states = [State(mean[0], tuple(mean[1:])) for mean in means]
    derivatives = run.derivatives()
    tables = [
        gradients_at(derivatives, run, states[knot].weights)
        for knot in track(knots, "gradients", len(knots), progress)
    ]
    trained = Trained(list(orders), ends)
    return MeanPath(states, knots, tables, run.places, run.recipe.max_grad_norm, trained)


def states_of(run: OptimizerRun, change: Reordered | None = None) -> Iterator[State]:
    """The states of the recorded training, or of a real one in another order: n_steps + 1."""
    derivatives, rule, state = run.derivatives(), run.rule(), State(*run.begin())
    yield state
    for step, parts in enumerate(run.parts(change)):
        gradient = torch.zeros_like(state.weights)
        for part in parts:
            gradient = gradient + derivatives.gradient(state.weights, part.batch) / len(parts)
        state = advanced(run, rule, state, gradient, step)
        yield state


def advanced(run: OptimizerRun, rule: Rule, state: State, gradient: Tensor, step: int) -> State:
    """The state after a step that takes this gradient, and clips it."""
    mean = gradient * clip_scale(gradient, run.recipe.max_grad_norm)
    return State(*rule.update(*state, mean, mean**2, step))
