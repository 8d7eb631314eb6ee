"""Reads the files of checkpoints: safetensors and torch files, whole or sharded, and folders.

Tensors are mapped from the file, not read: a large checkpoint costs no memory until it is used.
Nothing that could run code is loaded.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from influence.errors import InputError, NotYetSupportedError, StorageError, UntrustedFileError

TORCH_SUFFIXES = (".pt", ".pth", ".bin")
WEIGHT_FILES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
OPTIMIZER_FILE = "optimizer.pt"
TRAINER_STATE = "trainer_state.json"
# What the sharded trainings leave in a folder; their optimizers are in formats of their own.
_SHARDED = {
    "global_step*": "DeepSpeed",
    "zero_to_fp32.py": "DeepSpeed",
    "optimizer_[0-9]*": "FSDP",
    "pytorch_model_fsdp*": "FSDP",
    "optimizer.bin": "FSDP",
}
_WEIGHTS_KEYS = ("model", "state_dict", "model_state_dict")
_OPTIMIZER_KEYS = ("optimizer", "optimizer_state_dict")


def read(path: Path) -> Mapping[str, object]:
    """What a safetensors file, an index of shards, or a torch file holds.

    Raises:
        StorageError: No such file, or it is damaged.
        UntrustedFileError: It holds more than tensors and plain values.
        InputError: Not a kind of file that is read here.
    """
    if not path.is_file():
        raise StorageError(f"Expected a checkpoint file at {path}, but there is none.")
    if path.name.endswith(".index.json"):
        return _read_shards(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in TORCH_SUFFIXES:
        return _read_torch(path)
    raise InputError(
        f"A checkpoint file ends in .safetensors, .index.json, {', '.join(TORCH_SUFFIXES)}; got "
        f"{path.name}. Save the state dict with safetensors or torch.save under such a name."
    )


def weights_file(folder: Path) -> Path:
    """The file of the weights in a folder that `save_pretrained` or a Trainer wrote."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    _refuse_sharded(folder)
    raise StorageError(
        f"Expected one of {', '.join(WEIGHT_FILES)} in {folder}, but there is none: give the path "
        "of the file or of the folder that holds it."
    )


def optimizer_file(folder: Path) -> Path | None:
    """The file of the optimizer's state in a Trainer's folder; None where there is none."""
    if (folder / OPTIMIZER_FILE).is_file():
        return folder / OPTIMIZER_FILE
    _refuse_sharded(folder)
    return None


def weights_in(content: Mapping[str, object], name: str) -> dict[str, Tensor]:
    """The state dict in what was read: all of it, or its entry "model" or the like."""
    inner = _entry(content, _WEIGHTS_KEYS)
    found = content if inner is None else inner
    wrong = [key for key, value in found.items() if not isinstance(value, Tensor)]
    if wrong or not found:
        raise InputError(
            f"{name} must be a state dict (tensors by name), or hold one under "
            f"{', '.join(map(repr, _WEIGHTS_KEYS))}; got entries {list(found)[:5]}, of which "
            f"{wrong[:5]} are no tensors."
        )
    return {key: value for key, value in found.items() if isinstance(value, Tensor)}


def optimizer_in(content: Mapping[str, object]) -> Mapping[str, object] | None:
    """The state of an optimizer in a file that also holds weights; None where there is none."""
    if "param_groups" in content:
        return content
    return _entry(content, _OPTIMIZER_KEYS)


def _entry(content: Mapping[str, object], keys: tuple[str, ...]) -> Mapping[str, object] | None:
    found = [value for key in keys if isinstance(value := content.get(key), Mapping)]
    return found[0] if found else None


def _read_safetensors(path: Path) -> dict[str, object]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path} is no readable safetensors file: {error}.") from error


def _read_torch(path: Path) -> Mapping[str, object]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if type(error).__name__ == "UnpicklingError":
            raise UntrustedFileError(
                f"{path} holds more than tensors and plain values, and loading it could run code: "
                "save the state dict alone, torch.save(model.state_dict(), path)."
            ) from error
        raise StorageError(f"{path} is no readable torch file: {error}.") from error
    if not isinstance(content, Mapping):
        raise InputError(
            f"{path} must hold a state dict, got a {type(content).__name__}: save "
            "model.state_dict()."
        )
    return content


def _read_shards(index: Path) -> dict[str, object]:
    try:
        home: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(home.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{index} is no index of shards: {error!r}.") from error
    shards = {name: read(index.parent / name) for name in names}
    absent = [entry for entry, name in home.items() if entry not in shards[name]]
    if absent:
        raise StorageError(f"{index} lists entries that its shards lack: {absent[:5]}.")
    return {entry: shards[name][entry] for entry, name in home.items()}


def _refuse_sharded(folder: Path) -> None:
    for pattern, kind in _SHARDED.items():
        if any(folder.glob(pattern)):
            raise NotYetSupportedError(
                f"{folder} was written by {kind} in shards, which are not read here: gather the "
                "weights and the optimizer's state into plain files (full state dicts), and give "
                "Checkpoint(weights=..., adam={parameter name: exp_avg_sq})."
            )
