"""What a recorded run's folder says of its model, and the model built from that."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError, StorageError
from llm_influence.order.held import ties

ARCHITECTURE = "config.json"


def told_of(model: nn.Module) -> dict[str, Any]:
    """Class, attention and modes of a model, as JSON holds them."""
    kind = type(model)
    training = model.training
    return {
        "class": f"{kind.__module__}.{kind.__qualname__}",
        "attention": getattr(getattr(model, "config", None), "_attn_implementation", None),
        "training": training,
        "other mode": [name for name, one in model.named_modules() if one.training != training],
    }


def write_architecture(model: nn.Module, folder: Path) -> list[str]:
    """Writes the configuration of a transformers model; the names of the files written."""
    if not type(model).__module__.startswith("transformers."):
        return []
    described: Any = model.config
    described.to_json_file(folder / ARCHITECTURE, use_diff=False)
    return [ARCHITECTURE]


def built(folder: Path, told: Mapping[str, Any]) -> nn.Module:
    """The architecture of a transformers model, with weights of no meaning.

    Raises:
        InputError: Another kind of model: it must be given.
        StorageError: The configuration cannot be read by the installed transformers.
    """
    name = str(told["class"])
    if not (name.startswith("transformers.") and (folder / ARCHITECTURE).is_file()):
        raise InputError(
            f"Expected the model, load(folder, model=model): {name} is no class of transformers, "
            "whose architecture is in the folder. Its weights do not matter (for LoRA: the base "
            "model with the adapter on it)."
        )
    import transformers

    kind: Any = getattr(transformers, name.rpartition(".")[2], None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise StorageError(
            f"Expected a transformers with the model {name}, got version "
            f"{transformers.__version__}; install the one of the recording, or give model=."
        )
    try:
        of_kind: Any = kind.config_class
        described = of_kind.from_json_file(folder / ARCHITECTURE)
        described._attn_implementation = told["attention"]
        with torch.random.fork_rng(devices=[]):
            return kind(described)
    except Exception as error:  # whatever the library meets in another version's file
        raise StorageError(
            f"The model in {folder / ARCHITECTURE} cannot be built by transformers "
            f"{transformers.__version__}: {error!r}; give model=."
        ) from error


def with_weights(
    model: nn.Module, weights: Mapping[str, Tensor], buffers: Mapping[str, Tensor]
) -> nn.Module:
    """A copy of a model with these entries of its state dict, and buffers that are not in it.

    Types are those of the weights; the device stays.

    Raises:
        InputError: The model is of another architecture.
    """
    model = copy.deepcopy(model)
    _check_fits(model, {**weights, **buffers}, ties(weights))
    for name, parameter in model.named_parameters():
        parameter.data = weights[name].to(parameter.device, copy=True)
    for name, buffer in list(model.named_buffers()):
        owner, _, own = name.rpartition(".")
        given = weights[name] if name in weights else buffers[name]
        setattr(model.get_submodule(owner), own, given.to(buffer.device, copy=True))
    return model


def in_modes(model: nn.Module, told: Mapping[str, Any], trained: tuple[str, ...]) -> nn.Module:
    """The model with each module in the mode of the recording, and these parameters trainable."""
    for name, module in model.named_modules():
        module.training = told["training"] != (name in told["other mode"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)
    return model


def unsaved_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that the state dict does not hold."""
    saved = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in saved}


def _check_fits(model: nn.Module, saved: Mapping[str, Tensor], tied: Mapping[str, str]) -> None:
    live = {**model.state_dict(), **unsaved_buffers(model)}
    here = ties(model.state_dict())
    problems = [
        *(f"lacks {name}" for name in saved if name not in live),
        *(f"has {name} besides" for name in live if name not in saved),
        *_misfits(live, saved),
        *(f"does not tie {name}" for name in tied if name not in here),
        *(f"ties {name}" for name in here if name not in tied),
    ]
    if problems:
        raise InputError(
            f"Expected the architecture of the recording, but this {type(model).__name__} "
            f"{', '.join(problems[:3])} ({len(problems)} differences); give model= built as then."
        )


def _misfits(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> Iterator[str]:
    for name in saved:
        if name in live and live[name].shape != saved[name].shape:
            yield f"has {name} of shape {tuple(live[name].shape)}, not {tuple(saved[name].shape)}"
