"""Matches the entries of a saved state dict to a model's tensors, by name and strictly.

A *live* tensor belongs to the model, a *saved* one to the checkpoint. Names that share memory
(tied weights) are one live tensor, known by the first of them.
"""

import sys
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from influence.errors import InputError, NotYetSupportedError

Pairs: TypeAlias = dict[str, tuple[Tensor, Tensor]]  # (live, saved) by the live tensor's name


def live_tensors(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The model's distinct tensors by their first name, and from every name to the first."""
    live: dict[str, Tensor] = {}
    first_of: dict[str, str] = {}
    seen: dict[tuple[int, ...], str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            first_of[name] = seen.setdefault(_identity(tensor), name)
            live.setdefault(first_of[name], tensor)
    return live, first_of


def matched(model: nn.Module, saved: Mapping[str, Tensor], called: str) -> Pairs:
    """Pairs of (live, saved) tensors for all that a checkpoint holds.

    Of tied weights one name is enough, but several must agree. Buffers may be absent; those that
    the model no longer saves are ignored. Of a PEFT model the adapter is enough, under the names
    PEFT saves it (without the adapter's own name) or under the model's.

    Args:
        model: The model.
        saved: State dict of the checkpoint.
        called: What messages call the checkpoint.

    Raises:
        InputError: A parameter is missing, an entry has no place, or shapes differ.
    """
    live, first_of = live_tensors(model)
    adapter = _adapter_names(model, first_of)
    names = {**adapter, **first_of}
    required = set(adapter.values()) or {first_of[name] for name, _ in model.named_parameters()}
    held = {names[name] for name in saved if name in names}
    unsaved = {name for name, _ in model.named_buffers()}
    pairs: Pairs = {}
    misfits: list[str] = []
    for name, tensor in saved.items():
        if name in names:
            here = names[name]
            _, other = pairs.setdefault(here, (live[here], tensor))
            misfits += _misfit(name, tensor, here, live[here], other)
    _refuse(
        f"{called} does not fit the model, a {type(model).__name__}.",
        {
            "missing": [name for name in live if name in required - held],
            "unexpected": [name for name in saved if name not in names and name not in unsaved],
            "unfit": misfits,
        },
    )
    return pairs


def _misfit(name: str, saved: Tensor, here: str, live: Tensor, other: Tensor) -> list[str]:
    if saved.shape != live.shape or saved.is_floating_point() != live.is_floating_point():
        return [f"{name} is {_described(saved)} for {_described(live)}"]
    if other is not saved and not torch.equal(saved, other):
        return [f"{name} differs from its other name, and the model ties them at {here}"]
    return []


def _refuse(problem: str, entries: Mapping[str, list[str]]) -> None:
    told = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in entries.items()
        if names
    ]
    if told:
        raise InputError(
            f"{problem} Every parameter must be there and every entry must have a place; got "
            f"entries {'; '.join(told)}. Give checkpoints of this very model."
        )


def _adapter_names(model: nn.Module, first_of: Mapping[str, str]) -> dict[str, str]:
    """From the names PEFT saves the active adapter under to the model's; empty without PEFT."""
    peft = sys.modules.get("peft")  # a PEFT model cannot be without it
    if peft is None or not isinstance(model, peft.PeftModel):
        return {}
    adapters: list[str] = list(model.active_adapters)  # pyright: ignore[reportArgumentType]
    if len(adapters) != 1:
        raise NotYetSupportedError(
            f"A PEFT model must have one active adapter, got {adapters}: activate one."
        )
    entries = model.state_dict(keep_vars=True)
    saved = peft.get_peft_model_state_dict(
        model, state_dict=entries, adapter_name=adapters[0], save_embedding_layers=False
    )
    home = {id(tensor): name for name, tensor in entries.items()}
    other = [name for name, tensor in saved.items() if id(tensor) not in home]
    if other:
        raise NotYetSupportedError(
            f"PEFT must save the adapter's tensors as the model holds them, but changes "
            f"{other[:3]}: this kind of adapter is not read here."
        )
    return {name: first_of[home[id(tensor)]] for name, tensor in saved.items()}


def _identity(tensor: Tensor) -> tuple[int, ...]:
    place = tensor.data_ptr()
    return (place, *tensor.shape, *tensor.stride()) if place else (id(tensor),)


def _described(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
