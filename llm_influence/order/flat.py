"""`Flat`: the trained parameters of a model as one vector."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Flat:
    """Where each trained parameter lies in the vector.

    Attributes:
        names: Of the parameters, in the order of the optimizer's groups.
        shapes: Of each parameter.
        groups: The optimizer's group of each parameter.
        numbers: The number of each parameter in the optimizer's state dict.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    groups: tuple[int, ...]
    numbers: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        return [shape.numel() for shape in self.shapes]

    @property
    def n(self) -> int:
        """Length of the vector."""
        return sum(self.sizes)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        """These parameters of a model, in order."""
        named = dict(model.named_parameters())
        return [named[name] for name in self.names]

    def read(self, model: nn.Module) -> Tensor:
        """A copy of the model's parameters, shape (n,)."""
        return self.join([p.detach() for p in self.parameters(model)])

    def write(self, model: nn.Module, vector: Tensor) -> None:
        """Sets the model's parameters."""
        with torch.no_grad():
            for parameter, part in zip(self.parameters(model), self.split(vector), strict=True):
                parameter.copy_(part)

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """One tensor for each parameter as a vector, shape (n,)."""
        return torch.cat([tensor.reshape(-1) for tensor in tensors])

    def split(self, vector: Tensor) -> list[Tensor]:
        """Views of a vector, one for each parameter."""
        parts = vector.split(self.sizes)
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def part(self, of: slice) -> "Flat":
        """Some of the vector by itself."""
        ends = list(accumulate(self.sizes))
        lengths = [
            min(end, of.stop) - max(end - size, of.start)
            for end, size in zip(ends, self.sizes, strict=True)
        ]
        held = [i for i, length in enumerate(lengths) if length > 0]
        return Flat(
            tuple(self.names[i] for i in held),
            tuple(torch.Size([lengths[i]]) for i in held),
            tuple(self.groups[i] for i in held),
            tuple(self.numbers[i] for i in held),
        )

    def spread(self, by_group: Iterable[float], like: Tensor) -> Tensor | float:
        """A number for each group as a vector, shape (n,); one number where all are equal."""
        numbers = list(by_group)
        if len(set(numbers)) == 1:
            return numbers[0]
        parts = [
            torch.full((size,), numbers[group], dtype=like.dtype, device=like.device)
            for size, group in zip(self.sizes, self.groups, strict=True)
        ]
        return torch.cat(parts)
