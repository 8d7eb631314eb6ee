"""`StoreAt`: a folder for a store, with what the folder's name does not say."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_influence.shard import RowType

if TYPE_CHECKING:
    from llm_influence.store import Store


@dataclass(frozen=True, eq=False)
class StoreAt(os.PathLike[str]):
    """Where and how rows are kept; given to `fit` in place of a path.

        TracIn().fit(run, store=StoreAt("rows", dtype="bfloat16"))

    Args:
        path: The folder.
        dtype: Type of the stored numbers: "float32", or "bfloat16" for half the disk.
        opened: Called with the store before anything is computed: it knows its size and what is
            missing.
    """

    path: str | os.PathLike[str]
    dtype: RowType = "float32"
    opened: "Callable[[Store], None] | None" = None

    def __fspath__(self) -> str:
        return os.fspath(self.path)
