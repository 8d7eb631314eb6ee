"""Per-example gradients by hooks: one forward and one backward pass for a whole batch.

A forward hook keeps a layer's input, a hook on its output gets the gradient, and the layer's kind
makes the two sides of its gradient of them. The parameters themselves are frozen meanwhile, so
autograd skips all products for weight gradients: the pass is cheaper than an ordinary one.

Inputs are kept as autograd keeps them (saved tensors), so that activation checkpointing drops and
recomputes them as well.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError, UnsupportedModelError
from llm_influence.layers import Kind, Shape, Sides
from llm_influence.passes import precision, still
from llm_influence.projection import Bound

Loss = Callable[[nn.Module, Any], Tensor]  # (model, batch) -> (n_examples,)
# From a block and its gradient, shape (n_examples, *shape), to what is projected instead of it.
Transform = Callable[[str, Tensor], Tensor]
Reduce = Callable[[str, Sides], Sides]


@dataclass(frozen=True, eq=False)
class Layer:
    """One module whose gradient is taken.

    Attributes:
        module: Its name in the model.
        block: The block it adds to: the name of its weight, shared by tied layers.
        kind: What is known of it.
        broadcast: Its output has no axis of examples: one output serves the whole batch.
        changed: Its output is changed in place afterwards, so that the hook needs a copy.
    """

    module: str
    block: str
    kind: Kind
    broadcast: bool = False
    changed: bool = False


@dataclass(frozen=True, eq=False)
class Block:
    """Parameters whose gradient is one matrix or vector.

    Attributes:
        parameters: Names in the model, by the names the layer uses.
        shape: Shape of the gradient.
        arrange: From one tensor per name in the layer to a tensor of that shape.
    """

    parameters: Mapping[str, str]
    shape: Shape
    arrange: Callable[[Mapping[str, Tensor]], Tensor]

    def arranged(self, named: Mapping[str, Tensor]) -> Tensor:
        """The block of tensors given by the model's parameter names."""
        return self.arrange({own: named[name] for own, name in self.parameters.items()})


class _Kept(torch.autograd.Function):
    """A tensor kept as autograd keeps its own; the node that holds it is the result's grad_fn."""

    @staticmethod
    def forward(ctx: Any, marker: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return marker.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None]:
        return None, None


class Gradients:
    """Gradients of examples at the model's present weights; a context that holds the hooks.

    Args:
        model: The model.
        layers: The layers whose gradients are taken.
        reduce: Applied to sides as soon as they are known; keeps memory small.
        autocast: Number type of the forward pass, None for the model's own.
        training: The passes are those of a training: nothing is frozen, dropout stays on.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        reduce: Reduce,
        autocast: torch.dtype | None,
        *,
        training: bool = False,
    ) -> None:
        self._model = model
        self._layers = layers
        self._reduce = reduce
        self._autocast = autocast
        self._still = nullcontext() if training else still(model)
        self._marker = torch.zeros((), requires_grad=True)
        self.watch(0)

    def __enter__(self) -> "Gradients":
        self._still.__enter__()
        modules = dict(self._model.named_modules())
        self._hooks = [
            modules[layer.module].register_forward_hook(
                partial(self._forward, layer), with_kwargs=True
            )
            for layer in self._layers
        ]
        return self

    def __exit__(self, *raised: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self.watch(0)
        self._still.__exit__(None, None, None)

    def watch(self, n_examples: int) -> dict[str, list[Sides]]:
        """Where the sides of the passes to come are put, of so many examples; 0 watches none."""
        self._sides: dict[str, list[Sides]] = {}
        self._n_examples = n_examples
        self._n_tokens: set[int] = set()
        return self._sides

    def sides(
        self, loss: Loss, batch: Any, n_examples: int
    ) -> tuple[Tensor, dict[str, list[Sides]]]:
        """Losses, shape (n_examples,), and the reduced sides of every block that was used."""
        self._check_alone()
        found = self.watch(n_examples)
        with precision(self._model, self._autocast):
            losses = loss(self._model, batch)
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else None
        if shape != (n_examples,):
            got = f"a {type(losses).__name__}" if shape is None else f"shape {shape}"
            raise InputError(
                f"loss(model, batch) must give one loss for each example, shape ({n_examples},), "
                f"got {got}; take the mean within each example only."
            )
        if losses.requires_grad:
            losses.sum().backward()
        self.watch(0)
        if not found:
            raise InputError(
                "Expected the loss to depend on the layers whose gradients are taken, but no "
                "gradient reached one: the loss is cut off from the model (detach, no_grad), or "
                "the adapter that was traced is disabled, merged, or not the active one. Ask with "
                "the model as it was traced."
            )
        return losses.detach(), found

    @contextmanager
    def watching(self) -> Iterator[Mapping[str, list[Sides]]]:
        """The sides of whatever is run forward and backward inside, as of one example."""
        yield self.watch(1)

    def rows(
        self, loss: Loss, batch: Any, n_examples: int, bound: Bound, transform: Transform | None
    ) -> tuple[Tensor, Tensor]:
        """Losses and projected gradients, shape (n_examples, width)."""
        losses, found = self.sides(loss, batch, n_examples)
        like = next(self._model.parameters())
        return losses, projected(found, bound, transform, n_examples, like)

    def _check_alone(self) -> None:
        """Refuses a pass that others would take for the one they watch."""
        first = self._model.get_submodule(self._layers[0].module)
        for hook in first._forward_hooks.values():
            other = getattr(getattr(hook, "func", None), "__self__", None)
            if isinstance(other, Gradients) and other is not self and other._n_examples:
                raise InputError(
                    "Expected passes of your own only while they are watched, got another question "
                    "inside `with estimator.trace(model)`, or inside a training step whose rows "
                    "are collected; ask after it."
                )

    def _forward(
        self, layer: Layer, module: nn.Module, args: Any, named: Any, output: Tensor
    ) -> Tensor | None:
        if not torch.is_grad_enabled() or not self._n_examples:
            return None
        self._check_axis(layer, output)
        started = not output.requires_grad
        if started:  # nothing before it needs a gradient: the backward pass ends here
            output.requires_grad_(True)
        watched = output
        if layer.broadcast:
            watched = output.reshape(-1, *output.shape[-2:])
            watched = watched.expand(self._n_examples, *output.shape[-2:])
        elif layer.changed:  # a view that is changed forgets the hooks it had
            watched = output.clone()
        # The marker is a leaf, so that the hook does not keep its own graph alive.
        kept: Any = _Kept.apply(self._marker, layer.kind.input(args, named).detach())
        node, found = kept.grad_fn, self._sides

        def receive(gradient: Tensor) -> None:
            if found is not self._sides:
                raise InputError(
                    "Expected each backward pass to follow its own forward pass, got one through a "
                    "pass that is over: call backward() inside `with estimator.trace(model)`; a "
                    "model that keeps tensors from call to call cannot be asked."
                )
            (inputs,) = node.saved_tensors
            self._receive(layer, inputs, gradient)

        watched.register_hook(receive)
        return watched

    def _check_axis(self, layer: Layer, output: Tensor) -> None:
        """Refuses rows that are neither examples nor all tokens of all examples."""
        n = self._n_examples
        if n == 1 or layer.broadcast:
            return
        if len(output) == n:
            self._n_tokens.add(output[0].numel() // output.shape[-1])
        elif self._n_tokens and len(output) not in {n * size for size in self._n_tokens}:
            raise UnsupportedModelError(
                f"Expected the output of {layer.module} to hold {n} examples or all their tokens, "
                f"got {len(output)} rows: it sees a part of the tokens only, so that gradients "
                "cannot be told apart by example. Leave it out by modules=."
            )

    def _receive(self, layer: Layer, a: Tensor, b: Tensor) -> None:
        n = self._n_examples
        with torch.no_grad():
            b = b.reshape(n, -1, b.shape[-1])
            features = a.shape[-1:] if a.is_floating_point() else ()
            a = a.reshape(1 if layer.broadcast else n, -1, *features).expand(n, -1, *features)
            reduced = self._reduce(layer.block, layer.kind.sides(a, b))
        self._sides.setdefault(layer.block, []).append(reduced)


def projected(
    found: Mapping[str, list[Sides]],
    bound: Bound,
    transform: Transform | None,
    n_examples: int,
    like: Tensor,
) -> Tensor:
    """Rows of sides: reduced ones without a transform, whole ones with one.

    In float64 where `like`, a parameter, is: those of the losses may be of another number type.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    out = torch.zeros(n_examples, bound.width, dtype=dtype, device=like.device)
    with torch.no_grad():
        for block, parts in found.items():
            if transform is None:
                for sides in parts:
                    bound.add(block, sides, out)
            else:
                gradient = whole_gradient(parts, bound.segments[block].shape, dtype)
                bound.add_whole(block, transform(block, gradient), out)
    return out


def whole_gradient(parts: Sequence[Sides], shape: Shape, dtype: torch.dtype) -> Tensor:
    """The gradient of a block, shape (n_examples, *shape)."""
    from llm_influence.projection import whole

    total = whole(parts[0], shape, dtype)
    for sides in parts[1:]:
        total = total + whole(sides, shape, dtype)
    return total


def tokens_as_examples(sides: Sides) -> Sides:
    """Sides of one example as those of its tokens: (1, n_tokens, ...) to (n_tokens, 1, ...)."""
    return tuple(side.transpose(0, 1) for side in sides)
