"""Batches are containers of tensors in containers: how one is made again with other parts."""

from collections import UserDict
from collections.abc import Iterable, Mapping
from typing import Any


def mapping_like(batch: Mapping[Any, Any], parts: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A dict; of the batch's own type where that is one of transformers' (BatchEncoding).

    Those read attributes from what they hold. Other types may hold tensors elsewhere, which would
    stay those of the old batch.
    """
    return type(batch)(dict(parts)) if isinstance(batch, UserDict) else dict(parts)


def sequence_like(batch: Any, parts: Iterable[Any]) -> Any:
    """A list or tuple of the batch's own type, named tuples too; a tuple for other sequences."""
    if hasattr(batch, "_fields"):
        return type(batch)(*parts)
    return type(batch)(parts) if isinstance(batch, tuple | list) else tuple(parts)
