"""Which parameters of a model have their gradients taken, and proof that these are right.

What is found by the kinds of layers is held against autograd on two real examples, once for every
run. A layer that disagrees (it is called in another way than its class suggests) is left out and
named, as is every trained parameter that no layer kind covers.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence.examples import Examples
from llm_influence.gradients import Block, Gradients, Layer, Loss, whole_gradient
from llm_influence.layers import Kind, Names, kind_of
from llm_influence.nested import mapped
from llm_influence.passes import precision, still
from llm_influence.sharded import is_sharded, whole_tensor

TOLERANCE = {torch.float64: 1e-6, torch.float32: 2e-3}  # of a block's gradient norm
TOLERANCE_AUTOCAST = 0.1
MOST_CHECKED = 2**28  # parameters whose gradients autograd is asked for


@dataclass(frozen=True, eq=False)
class Coverage:
    """The layers whose gradients are taken, and what is left.

    Attributes:
        layers: The layers.
        blocks: Their parameters, by block name.
        uncovered: Reason by name, for every trained parameter that is left out.
        share: Covered share of the trained parameters.
        worst: Largest gap between a block's gradient and autograd's, relative to its norm.
    """

    layers: tuple[Layer, ...]
    blocks: Mapping[str, Block]
    uncovered: Mapping[str, str]
    share: float
    worst: float


@dataclass(frozen=True, eq=False)
class Probe:
    """How to run a model on a few of its examples."""

    model: nn.Module
    loss: Loss
    examples: Examples
    device: torch.device
    autocast: torch.dtype | None

    def batch(self, rows: Sequence[int]) -> Any:
        return moved(self.examples.batch(rows), self.device)

    def losses(self, rows: Sequence[int]) -> Tensor:
        with precision(self.model, self.autocast):
            return self.loss(self.model, self.batch(rows))


def cover(probe: Probe, modules: str | Sequence[str]) -> Coverage:
    """Finds the layers of a model and checks their gradients.

    Args:
        probe: The model with its examples.
        modules: Patterns of module names whose layers are taken, e.g. "*" or "*.mlp.*".

    Raises:
        InputError: The loss of an example depends on the others in its batch, or on padding.
        UnsupportedModelError: No parameter can be covered.
    """
    trained = {name: p for name, p in probe.model.named_parameters() if p.requires_grad}
    if not trained:
        raise InputError(
            "Expected a model with parameters that require a gradient (those that were trained), "
            "got one whose parameters are all frozen; call requires_grad_(True) on them."
        )
    reasons = dict.fromkeys(trained, "no layer kind for it")
    layers, blocks = _candidates(probe.model, modules, reasons)
    layers = _called(probe, layers, blocks, reasons)
    layers, worst = _checked(probe, layers, blocks, reasons) if layers else (layers, 0.0)
    kept = {layer.block: blocks[layer.block] for layer in layers}
    covered = {name for block in kept.values() for name in block.parameters.values()}
    share = sum(trained[n].numel() for n in covered) / sum(p.numel() for p in trained.values())
    uncovered = {name: why for name, why in reasons.items() if name not in covered}
    if not layers:
        listed = "; ".join(f"{name}: {why}" for name, why in list(uncovered.items())[:5])
        raise UnsupportedModelError(
            "Expected layers whose gradients can be taken one example at a time (Linear, Conv1D, "
            f"Embedding, LayerNorm, RMSNorm) among modules={modules!r}, found none: {listed}."
        )
    return Coverage(tuple(layers), kept, uncovered, share, worst)


def _candidates(
    model: nn.Module, modules: str | Sequence[str], reasons: dict[str, str]
) -> tuple[list[Layer], dict[str, Block]]:
    """Layers by their class; tied ones share the block of their weight."""
    patterns = _patterns(model, modules)
    named = {id(p): name for name, p in model.named_parameters()}
    layers: list[Layer] = []
    blocks: dict[str, Block] = {}
    for name, module in model.named_modules():
        own = {own: named[id(p)] for own, p in module.named_parameters(recurse=False)}
        trained = tuple(part for part in ("weight", "bias") if own.get(part) in reasons)
        for names in _parts(trained, own, blocks):
            kind = kind_of(module, names)
            if kind is None:
                continue
            parameters = {part: own[part] for part in kind.parameters}
            why = _refusal(name, patterns, parameters, kind, blocks)
            if why:
                reasons.update(dict.fromkeys(parameters.values(), why))
                continue
            block = parameters[names[0]]
            if block not in blocks or len(parameters) > len(blocks[block].parameters):
                blocks[block] = Block(parameters, kind.shape, kind.arrange)
            layers.append(Layer(name, block, kind))
    return layers, blocks


def _patterns(model: nn.Module, modules: str | Sequence[str]) -> list[str]:
    listed = isinstance(modules, Sequence) and all(isinstance(one, str) for one in modules)
    if not listed:
        raise InputError(f'modules must be a pattern or a list of them, e.g. "*", got {modules!r}.')
    patterns = [modules] if isinstance(modules, str) else list(modules)
    names = [name for name, _ in model.named_modules()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise InputError(
                f"Expected modules= to be patterns of this model's modules, but {pattern!r} is the "
                f"name of none; they are called {', '.join(names[1:4])}, ... (named_modules())."
            )
    return patterns


def _parts(trained: Names, own: Mapping[str, str], blocks: Mapping[str, Block]) -> Iterator[Names]:
    """Parameters of a layer that make one block: all, unless a tied one has a bias already."""
    tied = blocks.get(own[trained[0]]) if trained else None
    bias = tied and tied.parameters.get("bias")
    if len(trained) == 2 and bias and bias != own["bias"]:
        yield from [(name,) for name in trained]
    elif trained:
        yield trained


def _refusal(
    name: str,
    patterns: Sequence[str],
    parameters: Mapping[str, str],
    kind: Kind,
    blocks: Mapping[str, Block],
) -> str | None:
    """Why a layer is not taken, None if it is."""
    if not any(fnmatchcase(name, pattern) for pattern in patterns):
        return "left out by modules="
    tied = blocks.get(parameters[kind.parameters[0]])
    if tied is not None and (len(tied.shape) != len(kind.shape) or tied.shape[0] != kind.shape[0]):
        return "tied to a layer of another shape"
    return None


def _called(
    probe: Probe, layers: Sequence[Layer], blocks: Mapping[str, Block], reasons: dict[str, str]
) -> list[Layer]:
    """Drops layers that are never called, or see no examples; marks those of one output for all."""
    i, j = _two_lengths(probe.examples)
    found = [_outputs(probe, layers, rows) for rows in ([i, i], [i, i, i], [i, j], [j, j, j])]
    passes = [shapes for shapes, _ in found]
    changed = found[0][1]
    two, three = passes[:2]
    kept: list[Layer] = []
    left: set[str] = set()
    for layer in layers:
        shapes = [one.get(layer.module, []) for one in passes]
        broadcast = two.get(layer.module) == three.get(layer.module)
        if not all(shapes):  # a tied one may be, and autograd is asked whether that was all
            _leave_out({layer.block}, "its layer is not called as a module", blocks, reasons)
            continue
        if broadcast and not all(len(s) == 2 or (len(s) == 3 and s[0] == 1) for s in shapes[0]):
            why = "one output of its layer serves all examples"
        elif not broadcast and not all(
            _by_example(shape, n, one)
            for n, one, own in zip((2, 3, 2, 3), passes, shapes, strict=True)
            for shape in own
        ):
            why = "its layer sees a part of the tokens only"
        else:
            kept.append(replace(layer, broadcast=broadcast, changed=layer.module in changed))
            continue
        left.add(layer.block)
        _leave_out({layer.block}, why, blocks, reasons)
    return [layer for layer in kept if layer.block not in left]


def _outputs(
    probe: Probe, layers: Sequence[Layer], rows: Sequence[int]
) -> tuple[dict[str, list[torch.Size]], set[str]]:
    """Shapes of what every layer gives for a batch; layers whose output is changed in place."""
    outputs: dict[str, list[tuple[Tensor, int]]] = {}
    modules = dict(probe.model.named_modules())

    def note(name: str) -> Any:
        return lambda module, inputs, output: outputs.setdefault(name, []).append(
            (output, output._version)
        )

    called = {layer.module for layer in layers}
    hooks = [modules[name].register_forward_hook(note(name)) for name in called]
    try:
        with still(probe.model), torch.no_grad():
            probe.losses(rows)
    finally:
        for hook in hooks:
            hook.remove()
    shapes = {name: [output.shape for output, _ in listed] for name, listed in outputs.items()}
    return shapes, {
        name
        for name, listed in outputs.items()
        if any(output._version != version for output, version in listed)
    }


def _by_example(shape: torch.Size, n: int, one: Mapping[str, list[torch.Size]]) -> bool:
    """Whether an output holds the examples, or all tokens of all examples, one after another."""
    tokens = {
        int(np.prod(other[1:-1])) for listed in one.values() for other in listed if other[0] == n
    }
    return shape[0] == n or (shape[0] % n == 0 and (not tokens or shape[0] // n in tokens))


def _checked(
    probe: Probe, layers: list[Layer], blocks: Mapping[str, Block], reasons: dict[str, str]
) -> tuple[list[Layer], float]:
    """Drops layers whose gradient is not autograd's; returns the largest gap of those kept."""
    rows = _two_lengths(probe.examples)
    own = _gradients_in_a_batch(probe, layers, rows, blocks)
    with still(probe.model):
        together = probe.losses(rows).detach()
        wanted = _few_of_each(layers, blocks)
        gaps = dict.fromkeys(wanted, 0.0)
        for i, row in enumerate(rows):
            alone, expected = _autograd(probe, row, wanted, blocks)
            _check_independent(probe, row, float(together[i]), float(alone))
            scale = torch.stack([g.norm() for g in expected.values()]).norm()
            if not torch.isfinite(scale):
                raise InputError(
                    f"Expected a finite gradient, got numbers that are not for example {row}, one "
                    "of the two on which the gradients are checked; leave it out, or make the loss "
                    "differentiable there."
                )
            for block, gradient in expected.items():
                found = own[block][i] if block in own else torch.zeros_like(gradient)
                gap = (found - gradient).norm() / (gradient.norm() + 1e-4 * scale + 1e-30)
                gaps[block] = max(gaps[block], float(gap))
    bad = {block: gap for block, gap in gaps.items() if not gap <= _tolerance(probe)}
    for block, gap in bad.items():
        why = (
            f"gradient off by {gap:.2g}: its layer computes something else than its class, or "
            "another layer with the same weight is left out by modules="
        )
        _leave_out({block}, why, blocks, reasons)
    kept = [layer for layer in layers if layer.block not in bad]
    return kept, max((gap for block, gap in gaps.items() if block not in bad), default=0.0)


def _gradients_in_a_batch(
    probe: Probe, layers: Sequence[Layer], rows: Sequence[int], blocks: Mapping[str, Block]
) -> dict[str, Tensor]:
    with Gradients(probe.model, layers, lambda _, sides: sides, probe.autocast) as gradients:
        losses, found = gradients.sides(probe.loss, probe.batch(rows), len(rows))
    dtype = torch.float64 if losses.dtype == torch.float64 else torch.float32
    return {
        block: whole_gradient(parts, blocks[block].shape, dtype) for block, parts in found.items()
    }


def _autograd(
    probe: Probe, row: int, wanted: Sequence[str], blocks: Mapping[str, Block]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one example, and its gradient by each block's parameters."""
    sharded = is_sharded(probe.model)
    parameters = dict(probe.model.named_parameters())
    asked = {full: parameters[full] for b in wanted for full in blocks[b].parameters.values()}
    before = {name: parameter.grad for name, parameter in asked.items()}
    for parameter in asked.values():
        parameter.requires_grad_(True)
        parameter.grad = None
    try:
        loss = probe.losses([row])[0]
        loss.backward()  # reentrant checkpoints refuse autograd.grad
        named = {
            name: whole_tensor(torch.zeros_like(p) if p.grad is None else p.grad)
            for name, p in asked.items()
        }
    finally:
        for name, parameter in asked.items():
            parameter.requires_grad_(sharded)
            parameter.grad = before[name]
    return loss.detach(), {
        block: blocks[block].arranged(named).float()
        if blocks[block].arranged(named).dtype not in (torch.float32, torch.float64)
        else blocks[block].arranged(named)
        for block in wanted
    }


def _check_independent(probe: Probe, row: int, together: float, alone: float) -> None:
    if not math.isfinite(alone):
        raise InputError(
            f"Expected a finite loss, got {alone} for example {row}, one of the two on which the "
            "gradients are checked; look for numbers that are not finite in the model's weights."
        )
    if not abs(together - alone) <= _tolerance(probe) * max(1e-3, abs(alone)):
        raise InputError(
            f"Expected the loss of an example to depend on it alone, but that of example {row} is "
            f"{alone:.6g} by itself and {together:.6g} beside another: padding, batch "
            "normalisation, dropout or a mean over the batch enters it. Give one loss for each "
            "example, masked where it is padded."
        )


def _two_lengths(examples: Examples) -> list[int]:
    """Two short examples of different lengths, where there are such."""
    order = examples.lengths.argsort(kind="stable")
    longer = [int(i) for i in order if examples.lengths[i] > examples.lengths[order[0]]]
    other = longer[0] if longer else int(order[min(1, len(order) - 1)])
    return [int(order[0]), other]


def _few_of_each(layers: Sequence[Layer], blocks: Mapping[str, Block]) -> list[str]:
    """All blocks, or the first of each shape where all are too many parameters."""
    listed = list(dict.fromkeys(layer.block for layer in layers))
    sizes = {block: int(torch.Size(blocks[block].shape).numel()) for block in listed}
    if sum(sizes.values()) <= MOST_CHECKED:
        return listed
    first = {blocks[block].shape: block for block in reversed(listed)}
    return [block for block in listed if block in first.values()]


def _tolerance(probe: Probe) -> float:
    kind = next(probe.model.parameters()).dtype
    return TOLERANCE_AUTOCAST if probe.autocast else TOLERANCE.get(kind, TOLERANCE_AUTOCAST)


def _leave_out(
    left: set[str], why: str, blocks: Mapping[str, Block], reasons: dict[str, str]
) -> None:
    for block in left:
        reasons.update((name, why) for name in blocks[block].parameters.values())


def moved(batch: Any, device: torch.device) -> Any:
    """A batch with its tensors on a device."""
    return mapped(batch, lambda tensor: tensor.to(device))


def names_of(uncovered: Mapping[str, str], most: int = 3) -> Iterator[str]:
    """The uncovered parameters in words, a reason each."""
    by_reason: dict[str, list[str]] = {}
    for name, why in uncovered.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        rest = f" and {len(names) - most} more" if len(names) > most else ""
        yield f"{', '.join(names[:most])}{rest}: {why}"
