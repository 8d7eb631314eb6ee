"""Update rules of optimizers as elementwise functions of vectors, with their derivatives.

A step of any of them is one elementwise function

    (weights, moments, mean, square) -> (weights', moments')

of the clipped gradient `mean` and of what the second moment absorbs, `square`. In training
square = mean^2; averaged over batches it is the mean of squares, which is more. Being elementwise,
its Jacobian is a table of diagonals: `partials`. The formulas are those of torch.optim.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from influence.errors import UnsupportedModelError
from llm_influence.order.flat import Flat

Moments = tuple[Tensor, ...]
Number = Tensor | float


@dataclass(frozen=True, eq=False)
class Partials:
    """Derivatives of one step, each output by each input: diagonals of shape (n,).

    Attributes:
        table: table[i][j] for the outputs (weights', *moments') and the inputs
            (weights, *moments, mean, square); None where it is zero.
    """

    table: tuple[tuple[Tensor | None, ...], ...]

    def back(self, adjoints: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Adjoints of the inputs from those of the outputs, each shape (..., n)."""
        found = []
        for j in range(len(self.table[0])):
            total = torch.zeros_like(adjoints[0])
            for adjoint, row in zip(adjoints, self.table, strict=True):
                if (part := row[j]) is not None:
                    total = total + adjoint * part
            found.append(total)
        return tuple(found)


@dataclass(frozen=True, eq=False)
class Rule(ABC):
    """How an optimizer moves the weights.

    Attributes:
        flat: Where each parameter lies.
        groups: Options of the optimizer's groups, as torch names them.
        rates: Learning rate of every step and group.
        taken: Steps taken before the first one.
        smoothing: Adam's sqrt(v) is sqrt(v + smoothing^2): its derivative is bounded then.
        linear: Whether moves are linear in the gradients.
    """

    linear: ClassVar[bool]
    flat: Flat
    groups: tuple[Mapping[str, Any], ...]
    rates: tuple[tuple[float, ...], ...]
    taken: int
    smoothing: float = 0.0

    @abstractmethod
    def start(self, state: Mapping[int, Mapping[str, Any]], like: Tensor) -> Moments:
        """The moments in an optimizer's state dict, zeros where there are none."""

    @abstractmethod
    def update(
        self, weights: Tensor, moments: Moments, mean: Tensor, square: Tensor, step: int
    ) -> tuple[Tensor, Moments]:
        """One step; see the top of this file.

        Args:
            weights: Shape (n,), as all the others.
            moments: Of the gradients so far.
            mean: The gradient.
            square: Its square.
            step: Number of the step, from 0; the learning rate is that of the step.
        """

    @abstractmethod
    def roots(self, moments: Moments, step: int) -> Tensor:
        """sqrt(v) after a step, bias-corrected, where v > 0; empty of rules without it."""

    def option(self, name: str, like: Tensor) -> Number:
        """An option of the groups, spread over the vector where they differ."""
        return self.flat.spread([float(group[name]) for group in self.groups], like)

    def rate(self, step: int, like: Tensor) -> Number:
        return self.flat.spread(self.rates[step], like)

    def decays(self, like: Tensor) -> tuple[Number, Number]:
        """Weight decay that is added to the gradient, and that is taken from the weights."""
        apart = [bool(group.get("decoupled_weight_decay")) for group in self.groups]
        decays = [float(group["weight_decay"]) for group in self.groups]
        added = [0.0 if one else decay for one, decay in zip(apart, decays, strict=True)]
        taken = [decay if one else 0.0 for one, decay in zip(apart, decays, strict=True)]
        return self.flat.spread(added, like), self.flat.spread(taken, like)

    def partials(
        self, weights: Tensor, moments: Moments, mean: Tensor, square: Tensor, step: int
    ) -> Partials:
        """The Jacobian of `update`."""
        inputs = [x.detach().requires_grad_() for x in (weights, *moments, mean, square)]
        with torch.enable_grad():
            moved, carried = self.update(
                inputs[0], tuple(inputs[1:-2]), inputs[-2], inputs[-1], step
            )
        outputs = (moved, *carried)
        return Partials(
            tuple(
                torch.autograd.grad(
                    output.sum(), inputs, retain_graph=output is not outputs[-1], allow_unused=True
                )
                for output in outputs
            )
        )


class Adam(Rule):
    """Adam and AdamW: moments m and v.

    m' = b1 m + (1 - b1) g,  v' = b2 v + (1 - b2) g^2,
    w' = w - rate (m' / (1 - b1^t)) / (sqrt(v' / (1 - b2^t)) + eps), with decay added to the
    gradient (Adam) or taken from the weights (AdamW).
    """

    linear = False

    def start(self, state: Mapping[int, Mapping[str, Any]], like: Tensor) -> Moments:
        return _gathered(self.flat, state, ("exp_avg", "exp_avg_sq"), like)

    def update(
        self, weights: Tensor, moments: Moments, mean: Tensor, square: Tensor, step: int
    ) -> tuple[Tensor, Moments]:
        m, v = moments
        rate, (added, taken) = self.rate(step, weights), self.decays(weights)
        if _any(added):
            pull = added * weights
            mean, square = mean + pull, square + 2 * pull * mean + pull**2
        if _any(taken):
            weights = weights * (1 - rate * taken)
        betas = [[group["betas"][k] for group in self.groups] for k in (0, 1)]
        b1, b2 = (self.flat.spread(map(float, beta), weights) for beta in betas)
        time = self.taken + step + 1
        m, v = b1 * m + (1 - b1) * mean, b2 * v + (1 - b2) * square
        scale = _root(v / (1 - b2**time) + self.smoothing**2) + self.option("eps", weights)
        return weights - rate / (1 - b1**time) * m / scale, (m, v)

    def roots(self, moments: Moments, step: int) -> Tensor:
        b2 = self.flat.spread([float(group["betas"][1]) for group in self.groups], moments[1])
        v = moments[1] / (1 - b2 ** (self.taken + step + 1))
        return v[v > 0].sqrt()


class Momentum(Rule):
    """SGD with or without momentum: one moment, the buffer."""

    linear = True

    def start(self, state: Mapping[int, Mapping[str, Any]], like: Tensor) -> Moments:
        return _gathered(self.flat, state, ("momentum_buffer",), like)

    def update(
        self, weights: Tensor, moments: Moments, mean: Tensor, square: Tensor, step: int
    ) -> tuple[Tensor, Moments]:
        momentum = self.option("momentum", weights)
        mean = mean + self.decays(weights)[0] * weights
        first = self.taken + step == 0
        # torch keeps no buffer where momentum is 0, and dampens none in its first step.
        dampening = [g["dampening"] if g["momentum"] else 0.0 for g in self.groups]
        damped = 0.0 if first else self.flat.spread(map(float, dampening), weights)
        buffer = momentum * moments[0] + (1 - damped) * mean
        ahead = self.flat.spread([float(group["nesterov"]) for group in self.groups], weights)
        used = ahead * (mean + momentum * buffer) + (1 - ahead) * buffer
        if not _any(momentum):
            used, buffer = mean, moments[0]
        return weights - self.rate(step, weights) * used, (buffer,)

    def roots(self, moments: Moments, step: int) -> Tensor:
        return moments[0].new_empty(0)


RULES: dict[str, type[Rule]] = {"Adam": Adam, "AdamW": Adam, "SGD": Momentum}
# Options that would make another formula of it, and the value they must have.
UNKNOWN_OPTIONS = {"amsgrad": False, "maximize": False}


def check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuses optimizers whose formula is not known here.

    Raises:
        UnsupportedModelError: Its name, or the option it is used with.
    """
    name = type(optimizer).__name__
    if type(optimizer).__module__.split(".")[:2] != ["torch", "optim"] or name not in RULES:
        raise UnsupportedModelError(
            f"Expected torch's Adam, AdamW or SGD, whose updates can be followed, got "
            f"{type(optimizer).__module__}.{name}; train with one of these to record a run."
        )
    for group in optimizer.param_groups:
        for option, wanted in UNKNOWN_OPTIONS.items():
            if group.get(option, wanted) != wanted:
                raise UnsupportedModelError(
                    f"Expected {name} with {option}={wanted}, got {group[option]!r}; its updates "
                    "cannot be followed."
                )
        tensors = [
            option
            for option, value in group.items()
            if option != "params" and any(isinstance(one, Tensor) for one in _each(value))
        ]
        if tensors:
            raise UnsupportedModelError(
                f"Expected {name} with numbers as options, got tensors for {tensors}; give floats."
            )


def clip_scale(gradient: Tensor, most: float | None) -> Tensor | float:
    """What torch.nn.utils.clip_grad_norm_ multiplies a gradient by."""
    if most is None:
        return 1.0
    return (most / (gradient.norm() + 1e-6)).clamp(max=1.0)


def back_through_clip(gradient: Tensor, adjoint: Tensor, most: float | None) -> Tensor:
    """Adjoint of a gradient from that of the clipped one, shape (..., n).

    Clipped, g' = c g / (|g| + 1e-6); unclipped it is g itself.
    """
    if most is None:
        return adjoint
    norm = gradient.norm()
    if norm + 1e-6 <= most:
        return adjoint
    along = (adjoint @ gradient)[..., None] * gradient / (norm * (norm + 1e-6))
    return (adjoint - along) * (most / (norm + 1e-6))


def _root(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is 0: parameters that never had a gradient do not move."""
    if not x.requires_grad:
        return x.clamp(min=0).sqrt()
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def _each(value: object) -> Iterable[object]:
    return value if isinstance(value, tuple | list) else (value,)


def _any(number: Number) -> bool:
    return bool((number != 0).any()) if isinstance(number, Tensor) else number != 0


def _gathered(
    flat: Flat, state: Mapping[int, Mapping[str, Any]], names: tuple[str, ...], like: Tensor
) -> Moments:
    """Tensors of a state dict as vectors."""

    def part(number: int, size: int, name: str) -> Tensor:
        held = state.get(number, {}).get(name)
        return like.new_zeros(size) if held is None else held.to(like).reshape(-1)

    placed = list(zip(flat.numbers, flat.sizes, strict=True))
    return tuple(torch.cat([part(*one, name) for one in placed]) for name in names)
