"""Tensors and options that a recording keeps: checked, counted, plain."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from influence.errors import InputError


def check_tensors(state: Mapping[str, Any]) -> None:
    """Refuses a state dict that holds something else than tensors."""
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"Expected a model whose state dict holds tensors alone, got a "
                f"{type(tensor).__name__} for {name} (get_extra_state of a module?)."
            )


def sharing(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which names of the same tensor (tied weights) hold one object."""
    tied = ties(state)
    return {name: state[tied.get(name, name)] for name in state}


def ties(state: Mapping[str, Tensor]) -> dict[str, str]:
    """From every name of a tensor but the first to the first."""
    first: dict[tuple[Any, ...], str] = {}
    found = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), *tensor.shape, *tensor.stride())
        key = place if tensor.numel() else (name,)
        if first.setdefault(key, name) != name:
            found[name] = first[key]
    return found


def tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of one parameter's optimizer state."""
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def n_bytes(held: Iterable[Tensor]) -> int:
    """Bytes of these tensors, one that comes twice counted once."""
    distinct = {id(tensor): tensor for tensor in held}
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())


def plain(value: Any) -> Any:
    """An option as Python's own number or tuple, as it is read from a file again."""
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
