"""A recorded run as a folder.

    manifest.json        recipe, parameters, loss, model's class, and the checksum of every file
    config.json          architecture of the model, where it is one of transformers
    start.safetensors    weights.NAME, state.NUMBER.NAME (optimizer), buffers.NAME
    final.safetensors    final: the trained parameters as one vector
    steps.safetensors    order, rates, and the batches or their rows and examples

The folder is written under another name and renamed when it is complete. Tied weights are saved
once. SHA-256 guards against accidents, not against forgery: the manifest is not signed.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.errors import InfluenceError, InputError, StorageError
from influence.run import name_of
from llm_influence.checkpoint_files import read
from llm_influence.gradients import Loss
from llm_influence.losses import causal_lm, causal_lm_sum, classification, regression
from llm_influence.order.flat import Flat
from llm_influence.order.held import n_bytes, plain, tensors, ties
from llm_influence.order.record_checks import check_loss, check_whole_model
from llm_influence.order.run import OptimizerRun, Recipe
from llm_influence.order.saved_batches import as_tensors, of_tensors
from llm_influence.order.saved_model import (
    built,
    in_modes,
    told_of,
    unsaved_buffers,
    with_weights,
    write_architecture,
)
from llm_influence.shard import write_file

MANIFEST = "manifest.json"
VERSION = 1
LOSSES: dict[str, Loss] = {
    name_of(loss): loss for loss in (causal_lm, causal_lm_sum, classification, regression)
}
FILES = ("start", "final", "steps")
TOLERANCE = 1e-2  # of losses on another machine, relative


def size_of(run: OptimizerRun) -> int:
    """Bytes of all tensors that `save` writes."""
    _, files = _contents(run)
    return sum(n_bytes(held.values()) for held in files.values())


def save(run: OptimizerRun, folder: str | os.PathLike[str]) -> None:
    """See `OptimizerRun.save`."""
    from safetensors import SafetensorError

    path = Path(folder)
    try:
        if path.exists():
            raise InputError(
                f"Expected a new folder, but {path} exists; choose another, or remove it."
            )
        _save(run, path)
    except (OSError, SafetensorError) as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Could not write {path}: {error}.") from error


def _save(run: OptimizerRun, path: Path) -> None:
    told, files = _contents(run)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.mkdir(parents=True)
        check_space(part.parent, sum(n_bytes(held.values()) for held in files.values()))
        names = [_write(part / f"{name}.safetensors", held) for name, held in files.items()]
        names += write_architecture(run.model, part)
        told["files"] = {name: _digest(part / name) for name in names}
        text = json.dumps({**told, "checksum": _checksum(told)}, indent=1)
        write_file(part / MANIFEST, text.encode())
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load(
    folder: str | os.PathLike[str], model: nn.Module | None, loss: Loss | None, dataset: Any
) -> OptimizerRun:
    """See `OptimizerRun.load`."""
    if model is not None:
        check_whole_model(model)
    if loss is not None:
        check_loss(loss)
    path = Path(folder)
    told = _intact(path)
    chosen = _loss(told["loss"], loss)
    start, final, steps = (_read(path / f"{name}.safetensors") for name in FILES)
    architecture = built(path, told["model"]) if model is None else model
    weights = _under("weights.", start)
    weights |= {name: weights[first] for name, first in told["tied"].items()}
    flat = _flat(told["flat"])
    made = with_weights(architecture, weights, _under("buffers.", start))
    device = next(made.parameters()).device
    trained = final["final"].to(device)
    flat.write(made, trained)
    recipe = Recipe(
        **{**told["recipe"], "groups": tuple(map(_options, told["recipe"]["groups"]))},
        rates=tuple(map(tuple, steps["rates"].tolist())),
    )
    run = OptimizerRun(
        in_modes(made, told["model"], flat.names), chosen, flat, recipe, weights,
        _state(_under("state.", start), flat, recipe, device),
        of_tensors(told["batches"], steps, dataset), tuple(steps["order"].tolist()), trained,
        told["unit"],
    )  # fmt: skip
    _check_same(run, told)
    return run


def _contents(run: OptimizerRun) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """The manifest, without checksums, and the tensors of every file."""
    recipe = asdict(run.recipe)
    rates = torch.tensor(recipe.pop("rates"), dtype=torch.float64)
    tied = ties(run.start)
    batches, held = as_tensors(run.batches)
    start = {f"weights.{name}": x for name, x in run.start.items() if name not in tied}
    start |= {f"buffers.{name}": x for name, x in unsaved_buffers(run.model).items()}
    for number, one in run.state.items():
        start |= {f"state.{number}.{name}": x for name, x in tensors(one).items()}
    told = {
        "format": "optimizer run",
        "version": VERSION,
        "fingerprint": run.fingerprint,
        "torch": torch.__version__,
        "unit": run.unit,
        "loss": name_of(run.loss),
        "losses of batch 0": _first_losses(run),
        "model": told_of(run.model),
        "recipe": recipe,
        "flat": asdict(run.flat),
        "tied": tied,
        "batches": batches,
    }
    steps = {"order": torch.tensor(run.order), "rates": rates, **held}
    return told, dict(zip(FILES, (start, {"final": run.final}, steps), strict=True))


def _first_losses(run: OptimizerRun) -> list[float]:
    return run.derivatives().losses(run.final, run.batch(0)).double().tolist()


def check_space(folder: Path, needed: int) -> None:
    """Whether a folder's disk has room for a run of so many bytes.

    Raises:
        StorageError: It has not.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise StorageError(
            f"Expected {needed / 2**20:,.0f} MiB of free space for the run, got "
            f"{free / 2**20:,.0f} MiB at {folder}; choose another disk."
        )


def _write(path: Path, held: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save_file

    save_file({name: _alone(tensor) for name, tensor in held.items()}, path)
    return path.name


def _alone(tensor: Tensor) -> Tensor:
    """On the CPU, in memory that no other tensor shares."""
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _checksum(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _intact(folder: Path) -> dict[str, Any]:
    """The manifest, once every file is found to be as it was written."""
    try:
        told = _manifest(folder)
        for name, digest in told["files"].items():
            path = folder / name
            if not path.is_file():
                raise StorageError(f"{path} is missing; copy the whole folder again.")
            if _digest(path) != digest:
                raise StorageError(f"{path} is damaged (wrong checksum); copy it again.")
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}. Whether it is "
            "intact is not known; make it readable to you, with its folder."
        ) from error
    return told


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        inner = folder / "run"
        raise StorageError(
            f"Expected a folder that OptimizerRun.save wrote, but there is no {path}"
            + (f"; that of influence order record is {inner}." if inner.is_dir() else ".")
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        checksum, kind, version = told.pop("checksum"), told["format"], told["version"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} is damaged: {error!r}; copy it again.") from error
    if kind != "optimizer run" or version != VERSION:
        raise StorageError(
            f"Expected a recorded run of format version {VERSION}, got {kind!r} of version "
            f"{version!r} in {path}; load it with the release that wrote it."
        )
    if checksum != _checksum(told):
        raise StorageError(f"{path} is damaged (wrong checksum); copy it again.")
    return told


def _read(path: Path) -> dict[str, Tensor]:
    """Copies: tensors of the mapped file are not aligned, and matmuls round by that."""
    return {name: x.clone() for name, x in read(path).items() if isinstance(x, Tensor)}


def _under(prefix: str, held: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): x for n, x in held.items() if n.startswith(prefix)}


def _loss(name: str, given: Loss | None) -> Loss:
    if given is None and name not in LOSSES:
        raise InputError(
            f"Expected the loss the run was recorded with, load(folder, loss=loss): {name} is none "
            "of llm_influence's own."
        )
    return LOSSES[name] if given is None else given


def _flat(told: Mapping[str, Any]) -> Flat:
    shapes = tuple(torch.Size(shape) for shape in told["shapes"])
    return Flat(tuple(told["names"]), shapes, tuple(told["groups"]), tuple(told["numbers"]))


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: plain(value) for name, value in group.items()}


def _state(
    held: Mapping[str, Tensor], flat: Flat, recipe: Recipe, device: torch.device
) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state by number of the parameter, each tensor where torch has it."""
    group_of = dict(zip(flat.numbers, flat.groups, strict=True))
    state: dict[int, dict[str, Tensor]] = {}
    for entry, tensor in held.items():
        number, _, name = entry.partition(".")
        options = recipe.groups[group_of.get(int(number), 0)]
        here = name != "step" or options.get("fused") or options.get("capturable")
        state.setdefault(int(number), {})[name] = tensor.to(device) if here else tensor
    return state


def _check_same(run: OptimizerRun, told: Mapping[str, Any]) -> None:
    """Whether loss and model are those of the recording, as far as one batch tells."""
    try:
        now, then = _first_losses(run), told["losses of batch 0"]
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, InfluenceError):
            raise
        raise InputError(
            f"Expected a loss that takes the saved batches, but it fails with {error!r}; they are "
            "plain dicts, lists and tuples, read by key or position."
        ) from error
    if len(now) != len(then) or not np.allclose(now, then, rtol=TOLERANCE, atol=1e-4):
        raise InputError(
            f"Expected the losses of the recording for its first batch, {then[:3]}, got "
            f"{now[:3]}: the loss is another, or the model computes another function. Give those "
            f"of the recording (loss: {told['loss']})."
        )
    if name_of(run.loss) == told["loss"] and run.fingerprint != told["fingerprint"]:
        raise StorageError(
            f"The loaded run's fingerprint is {run.fingerprint}, expected {told['fingerprint']}: "
            "the folder was changed, or written by a release that fingerprints otherwise."
        )
