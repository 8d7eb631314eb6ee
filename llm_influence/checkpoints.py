"""`Checkpoint`: a moment of training. Loads one at a time into the model, and takes it out again.

Weights are matched by name, strictly: `checkpoint_match`. Files are read by `checkpoint_files`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from influence.errors import InputError, NotYetSupportedError, StorageError
from influence.run import fingerprint
from llm_influence.checkpoint_files import read, weights_file, weights_in
from llm_influence.checkpoint_match import Pairs, live_tensors, matched
from llm_influence.sharded import is_sharded, whole_tensor
from llm_influence.trainer_folders import checkpoint_folders, is_trainer_folder, trainer_rates

Weights: TypeAlias = Mapping[str, Tensor] | Path | str
Adam: TypeAlias = torch.optim.Optimizer | Mapping[str, object] | Path | str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One moment of training: weights, the step that led there, and Adam's state.

    Args:
        weights: A state dict; the path of a `.safetensors` file, of an index of shards
            (`model.safetensors.index.json`) or of a torch file (`.pt`, `.pth`, `.bin`; loaded as
            weights only), whose state dict may be under "model", "state_dict" or
            "model_state_dict"; or a folder of `save_pretrained` or of a Trainer. The adapter of a
            PEFT model may come alone. None: the model as it is.
        rate: Step on ONE example's own loss: learning rate x visits / batch size, over the steps
            that led to this checkpoint from the one before. A Trainer's folder tells it
            (`trainer_rates`).
        adam: The optimizer, its state dict, {parameter name: exp_avg_sq}, or a path to either.
            None: looked for beside the weights ("optimizer" or "optimizer_state_dict" in the same
            torch file, `optimizer.pt` in the same folder).
        name: How messages and results call it.
    """

    weights: Weights | None = None
    rate: float | None = None
    adam: Adam | None = None
    name: str = "checkpoint"


Source: TypeAlias = Checkpoint | Weights


def as_checkpoints(
    checkpoints: Source | Sequence[Source] | None,
    rates: Sequence[float] | None,
    model: nn.Module,
    n_train: int,
) -> tuple[Checkpoint, ...]:
    """Whatever a user gives as checkpoints, checked against the model.

    Args:
        checkpoints: One or several of what `Checkpoint(weights=...)` takes, or Checkpoints; a
            Trainer's output_dir stands for its folders checkpoint-N in the order of steps. None:
            the model as it is.
        rates: One for each checkpoint; None takes those of the checkpoints themselves.
        model: The model they are of.
        n_train: Number of examples of the whole training set: a Trainer's rates are over it.

    Returns:
        Checkpoints whose rates are all known, or all None.

    Raises:
        InputError: Weights that do not fit the model, or rates that do not fit the checkpoints.
        MissingParameterError: A Trainer's folder that logged no learning rate, without `rates`.
    """
    found = tuple(_named(i, one) for i, one in enumerate(_expanded(checkpoints)))
    if not found:
        raise InputError("checkpoints is empty: give at least one, or None for the model as it is.")
    _refuse_shared_memory(found)
    for checkpoint in found:
        _matched(model, checkpoint)
    return _with_rates(found, rates, n_train)


def load_into(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's weights into the model, in place and in the model's dtype.

    Every parameter must be there and every entry must have a place. Of tied weights one is enough,
    buffers may be absent, and of a PEFT model the adapter is enough.

    Raises:
        InputError: Names or shapes differ; the message lists what is missing, unexpected or of
            another shape. The model is then unchanged.
    """
    _copy(_matched(model, checkpoint).values())


@contextmanager
def loaded(
    model: nn.Module, checkpoint: Checkpoint, sums: Mapping[str, int] | None = None
) -> Iterator[None]:
    """The model with a checkpoint's weights; its own come back on leaving, also by an error.

    Parameters keep their identity (hooks and optimizers stay valid). Memory: one copy of what
    the checkpoint replaces, in the CPU's memory.

    Args:
        model: The model.
        checkpoint: The checkpoint.
        sums: Of the model's tensors, `sums_of`, which those that the checkpoint does not replace
            must still have.

    Raises:
        InputError: They have not.
    """
    matched_pairs = _matched(model, checkpoint)
    if sums is not None:
        _check_unchanged(model, matched_pairs, sums)
    pairs = list(matched_pairs.values())
    own = [(live, live.detach().to("cpu", copy=True)) for live, _ in pairs]
    try:
        _copy(pairs)
        yield
    finally:
        _copy(own)


def sums_of(model: nn.Module) -> dict[str, int]:
    """For every tensor of the model the sum of its bits, which a change of weights changes.

    Cost: one pass over the weights, a small part of that of a forward pass.
    """
    return {name: _sum(tensor) for name, tensor in live_tensors(model)[0].items()}


def fingerprint_of(checkpoint: Checkpoint, model: nn.Module) -> str:
    """Hash of the weights the model has with a checkpoint loaded; nothing is loaded.

    The same weights have the same hash, whatever the file they came from. Cost: one pass over all
    weights.
    """
    is_sharded(model)  # and if so, its tensors are those of the state dict again
    pairs = _matched(model, checkpoint)
    live, _ = live_tensors(model)
    parts: list[str] = []
    for name, tensor in live.items():
        _, saved = pairs.get(name, (tensor, tensor))
        parts += [name, _hash(saved.detach().to(tensor.dtype))]
    return fingerprint(*parts)


def _expanded(checkpoints: Source | Sequence[Source] | None) -> list[Checkpoint]:
    if checkpoints is None:
        return [Checkpoint(name="the model as it is")]
    if isinstance(checkpoints, Checkpoint):
        weights = checkpoints.weights
        path = Path(weights) if isinstance(weights, str) else weights
        return [replace(checkpoints, weights=path)]
    if isinstance(checkpoints, Mapping):
        return [Checkpoint(checkpoints)]
    if isinstance(checkpoints, str | Path):
        path = Path(checkpoints)
        if not path.exists():
            raise StorageError(f"Expected a checkpoint file or folder at {path}: there is none.")
        inner = checkpoint_folders(path) if path.is_dir() else []
        return [Checkpoint(one) for one in inner or [path]]
    if not isinstance(checkpoints, Sequence):
        raise InputError(
            "checkpoints must be state dicts, paths or Checkpoints, got a "
            f"{type(checkpoints).__name__}."
        )
    return [one for source in checkpoints for one in _expanded(source)]


def _named(position: int, checkpoint: Checkpoint) -> Checkpoint:
    if checkpoint.name != "checkpoint":
        return checkpoint
    weights = checkpoint.weights
    name = weights.name if isinstance(weights, Path) else f"checkpoint {position}"
    return replace(checkpoint, name=name)


def _refuse_shared_memory(checkpoints: tuple[Checkpoint, ...]) -> None:
    """State dicts collected without a copy are all the same: the last."""
    owner: dict[frozenset[int], str] = {}
    for checkpoint in checkpoints:
        if isinstance(checkpoint.weights, Mapping):
            tensors = weights_in(checkpoint.weights, checkpoint.name).values()
            key = frozenset(tensor.data_ptr() for tensor in tensors)
            if key in owner:
                raise InputError(
                    f"{owner[key]} and {checkpoint.name} share their memory, so they are the same "
                    "weights: copy each state dict when it is taken, e.g. "
                    "copy.deepcopy(model.state_dict())."
                )
            owner[key] = checkpoint.name


def _with_rates(
    found: tuple[Checkpoint, ...], rates: Sequence[float] | None, n_train: int
) -> tuple[Checkpoint, ...]:
    own: list[float | None] = [checkpoint.rate for checkpoint in found]
    if rates is not None:
        numbers = np.shape(rates) == (len(found),) and np.asarray(rates).dtype.kind in "iuf"
        if not numbers or any(rate is not None for rate in own):
            raise InputError(
                f"rates must be a list of numbers, one for each of the {len(found)} checkpoints, "
                f"given once; got {rates!r} in rates= and {own} in the checkpoints themselves."
            )
        own = [float(rate) for rate in rates]
    elif own.count(None) == len(own) and any(is_trainer_folder(one.weights) for one in found):
        own = _told_by_trainer(found, n_train)
    if 0 < own.count(None) < len(own):
        unknown = [one.name for one, rate in zip(found, own, strict=True) if rate is None]
        raise InputError(
            f"Either all checkpoints have a rate or none has; {', '.join(unknown[:5])} has none. "
            "Give rates=[...], one for each checkpoint."
        )
    if any(rate is not None and not (math.isfinite(rate) and rate >= 0) for rate in own):
        raise InputError(f"rates must be finite and not negative, got {own}.")
    return tuple(replace(one, rate=rate) for one, rate in zip(found, own, strict=True))


def _told_by_trainer(found: tuple[Checkpoint, ...], n_train: int) -> list[float | None]:
    folders = [one.weights if is_trainer_folder(one.weights) else None for one in found]
    told = iter(trainer_rates([folder for folder in folders if folder is not None], n_train))
    return [None if folder is None else next(told) for folder in folders]


def _matched(model: nn.Module, checkpoint: Checkpoint) -> Pairs:
    saved = _saved(checkpoint)
    if saved and is_sharded(model):
        raise NotYetSupportedError(
            f"Expected a model that is whole in this process to load {checkpoint.name} into, got "
            "one spread by fully_shard; trace it at its present weights, without checkpoints=."
        )
    return matched(model, saved, checkpoint.name) if saved else {}


def _saved(checkpoint: Checkpoint) -> dict[str, Tensor]:
    weights = checkpoint.weights
    if weights is None:
        return {}
    if isinstance(weights, Mapping):
        return weights_in(weights, checkpoint.name)
    path = Path(weights)
    return weights_in(read(weights_file(path) if path.is_dir() else path), str(path))


@torch.no_grad()
def _copy(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    for live, new in pairs:
        live.copy_(new)


def _check_unchanged(model: nn.Module, pairs: Pairs, sums: Mapping[str, int]) -> None:
    for name, live in live_tensors(model)[0].items():
        saved = pairs[name][1] if name in pairs else live
        if saved.data_ptr() == live.data_ptr() and _sum(live) != sums.get(name):
            raise InputError(
                f"Expected the weights that were traced, but {name} has changed since (training "
                "went on, weights were loaded, cast or merged): trace the model again, or trace it "
                "with checkpoints=copy.deepcopy(model.state_dict()) and train on."
            )


def _sum(tensor: Tensor) -> int:
    local = getattr(tensor, "to_local", None)
    own = (tensor if local is None else local()).detach()
    flat = own.contiguous().reshape(-1).view(torch.uint8)
    wide = len(flat) - len(flat) % 8 if flat.data_ptr() % 8 == 0 else 0
    return int(flat[:wide].view(torch.int64).sum()) + int(flat[wide:].sum())


def _hash(tensor: Tensor) -> str:
    flat = whole_tensor(tensor).cpu().contiguous().reshape(-1)
    shape = f"{tensor.dtype} {tuple(tensor.shape)}"
    return fingerprint(shape, flat.view(torch.uint8).numpy())
