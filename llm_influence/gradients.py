"""Per-example gradients by hooks: one forward and one backward pass for a whole batch.

A forward hook keeps a layer's input, a hook on its output gets the gradient, and the layer's kind
makes the two sides of its gradient of them. The parameters themselves are frozen meanwhile, so
autograd skips all products for weight gradients: the pass is cheaper than an ordinary one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from influence.errors import InputError
from llm_influence.layers import Kind, Shape, Sides
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
    """

    module: str
    block: str
    kind: Kind
    broadcast: bool = False


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


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """Parameters frozen and dropout off; as before on leaving."""
    trained = [p for p in model.parameters() if p.requires_grad]
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for module, training in modes:
            module.training = training


class Gradients:
    """Gradients of examples at the model's present weights; a context that holds the hooks.

    Args:
        model: The model.
        layers: The layers whose gradients are taken.
        reduce: Applied to sides as soon as they are known; keeps memory small.
        autocast: Number type of the forward pass, None for the model's own.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[Layer],
        reduce: Reduce,
        autocast: torch.dtype | None,
    ) -> None:
        self._model = model
        self._layers = layers
        self._reduce = reduce
        self._autocast = autocast
        self._sides: dict[str, list[Sides]] = {}
        self._n_examples = 0

    def __enter__(self) -> "Gradients":
        self._still = still(self._model)
        self._still.__enter__()
        modules = dict(self._model.named_modules())
        self._hooks = [
            modules[layer.module].register_forward_hook(self._forward_hook(layer))
            for layer in self._layers
        ]
        return self

    def __exit__(self, *raised: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self._sides = {}
        self._still.__exit__(None, None, None)

    def sides(
        self, loss: Loss, batch: Any, n_examples: int
    ) -> tuple[Tensor, dict[str, list[Sides]]]:
        """Losses, shape (n_examples,), and the reduced sides of every block that was used."""
        self._sides, self._n_examples = {}, n_examples
        with precision(self._model, self._autocast):
            losses = loss(self._model, batch)
        if losses.shape != (n_examples,):
            raise InputError(
                f"loss(model, batch) must give one loss for each example, shape ({n_examples},), "
                f"got shape {tuple(losses.shape)}; take the mean within each example only."
            )
        if losses.requires_grad:
            losses.sum().backward()
        found, self._sides = self._sides, {}
        return losses.detach(), found

    @contextmanager
    def watching(self) -> Iterator[Mapping[str, list[Sides]]]:
        """The sides of whatever is run forward and backward inside, as of one example."""
        self._sides, self._n_examples = {}, 1
        yield self._sides

    def rows(
        self, loss: Loss, batch: Any, n_examples: int, bound: Bound, transform: Transform | None
    ) -> tuple[Tensor, Tensor]:
        """Losses and projected gradients, shape (n_examples, width)."""
        losses, found = self.sides(loss, batch, n_examples)
        return losses, projected(found, bound, transform, n_examples, losses)

    def _forward_hook(self, layer: Layer) -> Callable[[nn.Module, Any, Any], Any]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            started = not output.requires_grad
            if started:  # nothing before it needs a gradient: the backward pass ends here
                output.requires_grad_(True)
            watched = output
            if layer.broadcast:
                watched = output.reshape(-1, *output.shape[-2:])
                watched = watched.expand(self._n_examples, *output.shape[-2:])
            elif started:
                watched = output.view_as(output)  # no leaf, so that it may be changed in place
            kept = inputs[0].detach()

            def receive(gradient: Tensor) -> None:
                self._receive(layer, kept, gradient)

            watched.register_hook(receive)
            return watched

        return hook

    def _receive(self, layer: Layer, a: Tensor, b: Tensor) -> None:
        n = self._n_examples
        with torch.no_grad():
            b = b.reshape(n, -1, b.shape[-1])
            if layer.broadcast:
                a = a.reshape(1, -1).expand(n, -1)
            elif a.is_floating_point():
                a = a.reshape(n, -1, a.shape[-1])
            else:
                a = a.reshape(n, -1)
            reduced = self._reduce(layer.block, layer.kind.sides(a, b))
        self._sides.setdefault(layer.block, []).append(reduced)


def precision(model: nn.Module, autocast: torch.dtype | None) -> AbstractContextManager[Any]:
    """The number type of a forward pass."""
    if autocast is None:
        return nullcontext()
    return torch.autocast(next(model.parameters()).device.type, autocast)


def projected(
    found: Mapping[str, list[Sides]],
    bound: Bound,
    transform: Transform | None,
    n_examples: int,
    like: Tensor,
) -> Tensor:
    """Rows of sides: reduced ones without a transform, whole ones with one."""
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
