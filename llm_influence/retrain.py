"""`retrainer`: what a change really does, by training again with the user's own recipe."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray
from torch import nn

from influence.change import Change, removed_weight
from influence.errors import InputError, RetrainingError
from influence.run import fingerprint, name_of
from llm_influence.examples import Examples
from llm_influence.order.retrain import OrderRetrainer
from llm_influence.order.run import OptimizerRun
from llm_influence.run import CheckpointRun

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
        base: Loss of each query after training with all weights 1, shape (n_queries,).
        fingerprint: Hash of the run, the queries and `recipe`.
    """

    run: CheckpointRun
    train: Train
    asked: Examples
    recipe: str
    base: NDArray[np.float64]
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        content = self.asked.content(slice(0, self.asked.n_queries))
        key = fingerprint(self.run.fingerprint, content, self.recipe)
        object.__setattr__(self, "fingerprint", key)

    @property
    def n_train(self) -> int:
        return self.run.n_train

    def losses(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Loss of each query after training with these weights, shape (n_queries,)."""
        trained: Any = self.train(copy.deepcopy(self.run.model), self.run.examples, weights)
        if not isinstance(trained, nn.Module):
            raise InputError(
                "Expected a recipe that returns the trained model, got a "
                f"{type(trained).__name__}; end it with `return model`."
            )
        losses = self.run.losses_of(trained, self.asked)
        if not np.isfinite(losses).all():
            raise RetrainingError(
                "The recipe gave a model whose loss is not finite; lower its learning rate."
            )
        return losses

    def __call__(self, change: Change) -> NDArray[np.float64]:
        """Change of each query's loss against training with all weights 1, shape (n_queries,)."""
        weights = 1.0 - removed_weight(change, self.n_train)
        return self.losses(weights) - self.base


@overload
def retrainer(run: CheckpointRun, train: Train, queries: Any, recipe: str = "") -> Retrainer: ...


@overload
def retrainer(run: OptimizerRun, train: Any) -> OrderRetrainer: ...


def retrainer(
    run: CheckpointRun | OptimizerRun, train: Any, queries: Any = None, recipe: str = ""
) -> Retrainer | OrderRetrainer:
    """What changes really do: a function from a change to the effect on each query's loss.

        retrainer(run, train, queries)      # a run made by trace
        retrainer(recorded, queries)        # one made by record, which knows its recipe

    Cost: one training for each change, and of a traced run one here, with all weights 1.

    Args:
        run: A run made by `trace` or `record`.
        train: Your recipe, (model, examples, weights) -> the trained model. `model` is a copy of
            the run's, to be set back to its start; `weights` multiply the examples' losses, 0
            leaves one out. `examples.batch(rows)` gives batches. It must give the same model for
            the same weights: fix its seed.
        queries: Query examples; of a recorded run a list of batches.
        recipe: Any text that names the recipe and its settings; part of the fingerprint that a
            cache of retrainings goes by. Default: the function's name.

    Raises:
        RetrainingError: The recipe diverged.
        InputError: The recipe does not return a model.
    """
    if isinstance(run, OptimizerRun):
        if queries is not None or recipe:
            raise InputError(
                "Expected retrainer(run, queries) for a recorded run, which knows its recipe, got "
                "a recipe too; leave it out."
            )
        batches = run.queries(train)
        return OrderRetrainer(run, batches, run.losses(batches))
    asked = run.queries(queries)
    unchanged = Retrainer(run, train, asked, recipe or name_of(train), np.zeros(asked.n_queries))
    return replace(unchanged, base=unchanged.losses(np.ones(run.n_train)))
