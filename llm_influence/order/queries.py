"""`BatchQueries`: what a recorded run is asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
from torch import Tensor

from influence.errors import InputError
from llm_influence.examples import Examples
from llm_influence.other_examples import OtherExamples


@dataclass(frozen=True, eq=False)
class BatchQueries:
    """Queries of an `OptimizerRun`: the loss of each is the mean over its batch."""

    batches: list[Any]
    index: pd.Index

    @property
    def n_queries(self) -> int:
        return len(self.batches)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the batches."""
        return OtherExamples.of(self.batches, list).content(slice(0, self.n_queries))

    def __getitem__(self, block: slice) -> Self:
        return replace(self, batches=self.batches[block], index=self.index[block])


def as_queries(given: Any) -> BatchQueries:
    """A list of batches, or examples one by one, as queries.

    Raises:
        InputError: Something else.
    """
    if isinstance(given, BatchQueries):
        return given
    if isinstance(given, Examples):
        singles = [given.batch(np.array([i])) for i in range(given.n_queries)]
        return BatchQueries(singles, given.index)
    if isinstance(given, Mapping | str | bytes | Tensor) or not isinstance(given, Sequence):
        raise InputError(
            "Expected a list of batches, each a query as the loss takes it, got a "
            f"{type(given).__name__}; one batch alone is [batch], those of a loader list(loader)."
        )
    if not given:
        raise InputError("Expected at least one batch as query, got none.")
    return BatchQueries(list(given), pd.RangeIndex(len(given)))
