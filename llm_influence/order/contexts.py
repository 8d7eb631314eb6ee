"""What every item at every place moves the weights by, in the middle of random orders.

Adam's update is no linear function of its moments. Where v is young, or rests on few items, its
derivative along the mean path is not what an item does: v changes with the order by as much as its
mean. Here the item l is really taken at the place p of a random order o, the context. m and v are
then followed step by step and element by element, with the gradients along the path:

    change of step t >= p = update_t(o with l at p) - update_t(o)

Over contexts its mean is, but for a constant, the best sum over places that there is for the
updates of random orders: the first order of their analysis of variance. Every coordinate has a
context of its own. What is asked for are sums over many coordinates, in which chance averages out.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.progress import track
from influence.run import blocks
from llm_influence.order.mean_path import MeanPath
from llm_influence.order.places import Places
from llm_influence.order.rules import Moments, Rule
from llm_influence.order.run import OptimizerRun
from llm_influence.order.search import shuffled

POOL = 64  # random orders that coordinates draw theirs from
TOGETHER = 2**16  # numbers that are moved at a time: they fit a processor's cache
ENOUGH, MOST = 2**16, 16  # coordinates of all passes, and passes
LONG, TOO_LONG = 1_000, 10_000  # trainings of updates for a pass, from which there are fewer


@dataclass(frozen=True, eq=False)
class Tried:
    """Every item taken at a place, and what a step then does that it did not in the contexts.

    Attributes:
        places: Places of one step, where an item does the same on average; the first is tried.
        step: The step of the places, or a later one.
        columns: Coordinates of the weights.
        changes: Of the step's move of these by each item, shape (n_items, n_columns).
    """

    places: NDArray[np.int64]
    step: int
    columns: slice
    changes: Tensor


@dataclass(frozen=True, eq=False)
class _Contexts:
    """A training in which every coordinate has an order of its own.

    Attributes:
        orders: Item of every place, shape (n_orders, n_places).
        which: The order of every coordinate, shape (n,).
        means: What every step takes, shape (n,).
        moments: Before every step.
        ends: The weights after every step that begins on the path, shape (n,).
    """

    orders: Tensor
    which: Tensor
    means: list[Tensor]
    moments: list[Moments]
    ends: list[Tensor]

    def gradient(self, place: int, gradients: Tensor) -> Tensor:
        """Of each coordinate's item at a place, shape (n,)."""
        items = self.orders[:, place][self.which]
        return gradients.gather(0, items[None])[0]


def n_passes(asked: int | None, run: OptimizerRun) -> int:
    """Passes over a run: none where updates are linear; where not asked for, by sizes.

    They are 2, and more where parameters are few. They are 1 where a pass takes the updates of
    1,000 trainings or more, and none from 10,000 on.
    """
    if run.rule().linear:
        return 0
    if asked is not None:
        return asked
    trainings = run.n_train * (run.n_steps + 1) / 2
    if trainings >= LONG:
        return 1 if trainings < TOO_LONG else 0
    return min(MOST, max(2, ENOUGH // run.flat.n))


def tried(run: OptimizerRun, path: MeanPath, seed: int, progress: bool) -> Iterator[Tried]:
    """Every item at every place; costs the updates of n_items (n_steps + 1) / 2 trainings.

    Args:
        run: The run.
        path: Its weights and gradients are taken as they are, whatever the order.
        seed: Of the contexts.
        progress: Show a bar.
    """
    n, rule, contexts = run.flat.n, run.rule(), _contexts(run, path, seed)
    columns = list(blocks(n, TOGETHER // run.n_train))
    rules = [replace(rule, flat=run.flat.part(block)) for block in columns]
    for step in track(range(run.n_steps), "places", run.n_steps, progress):
        gradients = path.at(step).gradients
        for places in _alike(run.places, step):
            share, own = (
                float(run.places.shares[places[0]]),
                contexts.gradient(places[0], gradients),
            )
            whole = contexts.means[step] - share * own
            for block, part in zip(columns, rules, strict=True):
                means = whole[block] + share * gradients[:, block]
                for later, changes in _followed(part, path, contexts, step, block, means):
                    yield Tried(places, later, block, changes)


def _followed(
    rule: Rule, path: MeanPath, contexts: _Contexts, step: int, columns: slice, means: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """What a step that takes each of these means changes, shape (k, n), and every later one."""
    moments = tuple(moment[columns] for moment in contexts.moments[step])
    for later in range(step, len(contexts.means)):
        taken = means if later == step else contexts.means[later][columns]
        weights = path.states[later].weights[columns]
        moved, moments = rule.update(weights, moments, taken, taken**2, later)
        yield later, moved - contexts.ends[later][columns]


def _contexts(run: OptimizerRun, path: MeanPath, seed: int) -> _Contexts:
    drawn = np.random.default_rng(seed).integers(POOL, size=run.flat.n)
    orders, which = (
        torch.from_numpy(x).to(run.final.device) for x in (shuffled(run.places, POOL, seed), drawn)
    )
    found = _Contexts(orders, which, [], [run.begin()[1]], [])
    rule, places = run.rule(), run.places
    for step in range(run.n_steps):
        gradients, here = path.at(step).gradients, places.of_step(step)
        mean = torch.zeros_like(run.final)
        for place in range(here.start, here.stop):
            mean = mean + float(places.shares[place]) * found.gradient(place, gradients)
        weights = path.states[step].weights
        moved, moments = rule.update(weights, found.moments[-1], mean, mean**2, step)
        found.means.append(mean)
        found.moments.append(moments)
        found.ends.append(moved)
    return found


def _alike(places: Places, step: int) -> list[NDArray[np.int64]]:
    """The places of a step, those of equal shares together."""
    here = np.arange(places.n_places)[places.of_step(step)]
    shares = places.shares[here]
    return [here[shares == share] for share in np.unique(shares)]
