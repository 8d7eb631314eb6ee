"""Batches are containers of tensors in containers: how one is made again with other parts."""

from collections import UserDict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor


def mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A batch with every tensor in it changed; what is neither tensor nor container stays."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return mapping_like(batch, {name: mapped(part, change) for name, part in batch.items()})
    if isinstance(batch, tuple | list):
        return sequence_like(batch, (mapped(part, change) for part in batch))
    return batch


def mapping_like(batch: Mapping[Any, Any], parts: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """A dict; of the batch's own type where that is one of transformers' (BatchEncoding).

    Those read attributes from what they hold. Other types may hold tensors elsewhere, which would
    stay those of the old batch.
    """
    return type(batch)(dict(parts)) if isinstance(batch, UserDict) else dict(parts)


def sequence_like(batch: Any, parts: Iterable[Any]) -> Any:
    """A list or tuple of the batch's own type, named tuples too; a tuple for other sequences."""
    if isinstance(batch, tuple) and getattr(type(batch), "_fields", None) is not None:
        return type(batch)(*parts)
    return type(batch)(parts) if isinstance(batch, tuple | list) else tuple(parts)
