"""Chance, for networks."""

import numpy as np

from influence.baselines import Chance, Keys, key_of
from llm_influence.examples import Examples
from llm_influence.of_networks import OfNetworks
from llm_influence.run import CheckpointRun


class Random(OfNetworks, Chance[CheckpointRun, Examples]):
    """Chance: standard normal values, drawn anew for every training example and query.

    A value follows from the seed and what the two examples hold, so that order, batches and
    threads change no bit, and equal examples have equal values.

    Sign: none. Unit: similarity (only ranks). Cost: a hash of each example, O(1) a value.
    Answers every traced model.

    Args:
        seed: Seed.
    """

    def _fit(self, run: CheckpointRun) -> None:
        self._rows = self._keys(run.examples)
        self._counted = np.ones(run.n_train, dtype=np.bool_)

    def _keys(self, queries: Examples) -> Keys:
        found = [key_of(queries.content(slice(q, q + 1))) for q in range(queries.n_queries)]
        return np.array(found, dtype=np.uint64)
