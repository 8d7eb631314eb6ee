"""`retrainer`: what a change really does, by training again with the user's own recipe."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from influence.change import Change, removed_weight
from influence.errors import RetrainingError
from influence.run import fingerprint
from llm_influence.examples import Examples
from llm_influence.run import CheckpointRun, name_of

# (model, examples, weights of shape (n_train,)) -> the trained model
Train = Callable[[nn.Module, Examples, NDArray[np.float64]], nn.Module]


@dataclass(frozen=True, eq=False)
class Retrainer:
    """From a change to its effect on each query's loss after training again; made by `retrainer`.

    Attributes:
        run: The run.
        train: The recipe.
        asked: The queries.
        recipe: What the recipe is, for the fingerprint.
        fingerprint: Hash of the run, the queries and `recipe`.
    """

    run: CheckpointRun
    train: Train
    asked: Examples
    recipe: str
    fingerprint: str = field(init=False)
    _unchanged: list[NDArray[np.float64]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        content = self.asked.content(slice(0, self.asked.n_queries))
        key = fingerprint(self.run.fingerprint, content, self.recipe)
        object.__setattr__(self, "fingerprint", key)

    @property
    def n_train(self) -> int:
        return self.run.n_train

    def losses(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss of each query after training with these weights, shape (n_queries,)."""
        trained = self.train(copy.deepcopy(self.run.model), self.run.examples, weights)
        losses = self.run.losses_of(trained, self.asked)
        if not np.isfinite(losses).all():
            raise RetrainingError(
                "The recipe gave a model whose loss is not finite; lower its learning rate."
            )
        return losses

    def __call__(self, change: Change) -> NDArray[np.float64]:
        """Change of each query's loss against training with all weights 1, shape (n_queries,)."""
        weights = 1.0 - removed_weight(change, self.n_train)
        if not self._unchanged:
            self._unchanged.append(self.losses(np.ones(self.n_train)))
        return self.losses(weights) - self._unchanged[0]


def retrainer(run: CheckpointRun, train: Train, queries: Any, recipe: str = "") -> Retrainer:
    """What changes really do: a function from a change to the effect on each query's loss.

    Args:
        run: A run made by `trace`.
        train: Your recipe, (model, examples, weights) -> the trained model. `model` is a copy of
            the run's, to be set back to its start; `weights` multiply the examples' losses, 0
            leaves one out. `examples.batch(rows)` gives batches. It must give the same model for
            the same weights: fix its seed.
        queries: Query examples.
        recipe: Any text that names the recipe and its settings; part of the fingerprint that a
            cache of retrainings goes by. Default: the function's name.

    Raises:
        RetrainingError: (when called) The recipe diverged.
    """
    return Retrainer(run, train, run.queries(queries), recipe or name_of(train))
