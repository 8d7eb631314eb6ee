"""`TokenInfluence`: which tokens of a training example act, and on which tokens of a query."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.errors import InputError
from influence.result_html import result_html


@dataclass(frozen=True, eq=False, repr=False)
class TokenInfluence:
    """Influence of training examples on one query, split by token.

    Attributes:
        train: Positions of the training examples, shape (n_examples,).
        of_train: For each, the influence of its tokens, shape (n_tokens of the example,).
        of_query: For each, its influence on the query's tokens, shape (n_tokens of the query,).
        train_index: Caller's labels of the training examples.
    """

    train: NDArray[np.int64]
    of_train: Sequence[NDArray[np.float64]]
    of_query: Sequence[NDArray[np.float64]]
    train_index: pd.Index

    def __repr__(self) -> str:
        return f"<TokenInfluence of {len(self.train)} training examples on one query>"

    def _repr_html_(self) -> str:
        reading = (
            "By token of the training examples: positive = it helps the query, negative = it hurts."
        )
        return result_html(repr(self)[1:-1], reading, self.frame())

    def frame(self, side: str = "train") -> pd.DataFrame:
        """One line per token: train (the caller's label), token (its position), influence.

        Args:
            side: "train" or "query".
        """
        if side not in ("train", "query"):
            raise InputError(f'side must be "train" or "query", got {side!r}.')
        parts = [np.empty(0), *(self.of_train if side == "train" else self.of_query)]
        counts = [len(part) for part in parts[1:]]
        return pd.DataFrame(
            {
                "train": np.repeat(self.train_index.to_numpy(), counts),
                "token": np.concatenate([np.arange(len(part)) for part in parts]),
                "influence": np.concatenate(parts),
            }
        )
