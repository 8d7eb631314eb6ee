"""The gradient of one example for every layer kind: one pure function each.

| letter | meaning                                                                    |
|--------|----------------------------------------------------------------------------|
| i      | example of a batch                                                         |
| t      | token (any position between batch and features)                            |
| a      | input of a layer, shape (n_examples, n_tokens, n_in)                       |
| b      | gradient of the examples' losses by its output, (n_examples, n_tokens, n_out) |

The gradient of a layer's parameters is kept as the two sides of a sum of outer products,

    G_i = sum_t left_it right_it^T,

or, for parameters that scale and shift, as the vectors whose sum over t it is. Weight and bias of a
layer are one matrix [W | b], so that a bias costs one column. A side of whole numbers is one-hot.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Names = tuple[str, ...]
Sides = tuple[Tensor, ...]  # (left, right), or (vectors,)
Shape = tuple[int, ...]  # of the block's gradient: (n_rows, n_columns), or (n,)


@dataclass(frozen=True, eq=False)
class Kind:
    """What is known of one layer.

    Attributes:
        parameters: Names of its parameters, as the layer calls them; the first names its block.
        shape: Shape of its gradient as one matrix or vector.
        arrange: From one tensor per parameter to a tensor of that shape.
        sides: From (a, b) to the sides of its gradient.
        input: From the arguments of its call to a.
    """

    parameters: tuple[str, ...]
    shape: Shape
    arrange: Callable[[Mapping[str, Tensor]], Tensor]
    sides: Callable[[Tensor, Tensor], Sides]
    input: Callable[[tuple[Any, ...], Mapping[str, Any]], Tensor] = lambda args, named: (
        args[0] if args else next(iter(named.values()))
    )


def kind_of(module: nn.Module, names: Names) -> Kind | None:
    """The kind of a layer of which some parameters are trained, None if there is none for it."""
    for accepts, make in KINDS:
        if accepts(module):
            return make(module, names)
    return None


def linear(module: nn.Linear, names: Names) -> Kind:
    """y = W a + b: G = sum_t b_t [a_t, 1]^T."""
    return _affine(module, names, transposed=False)


def conv1d(module: Any, names: Names) -> Kind:
    """The linear layer of Hugging Face's GPT-2, whose weight is stored as (n_in, n_out)."""
    return _affine(module, names, transposed=True)


def embedding(module: nn.Embedding, names: Names) -> Kind:
    """Row x_t of a table: G = sum_t onehot(x_t) b_t^T; rows of `padding_idx` are not trained."""
    padding = module.padding_idx

    def sides(ids: Tensor, b: Tensor) -> Sides:
        if padding is not None:
            b = b * (ids != padding)[..., None]
        return ids, b

    return Kind(names, _shape(module.weight), lambda p: p["weight"], sides)


def looked_up(module: nn.Embedding, names: Names) -> Kind:
    """A table whose class works out the rows itself, or multiplies them by a number s_t.

    The module, given the table [number of the row, 1], tells both: G = sum_t onehot(x_t) s_t b_t^T.
    """
    padding = module.padding_idx

    def given(args: tuple[Any, ...], named: Mapping[str, Any]) -> Tensor:
        rows = torch.arange(len(module.weight), dtype=torch.float64, device=module.weight.device)
        table = torch.stack([rows, torch.ones_like(rows)], 1)
        with torch.no_grad():
            return torch.func.functional_call(module, {"weight": table}, args, dict(named))

    def sides(a: Tensor, b: Tensor) -> Sides:
        row, factor = a.unbind(-1)
        ids = (row / factor).round().long()
        factor = factor if padding is None else factor * (ids != padding)
        return ids, b * factor[..., None].to(b.dtype)

    return Kind(names, _shape(module.weight), lambda p: p["weight"], sides, given)


def layer_norm(module: nn.LayerNorm, names: Names) -> Kind:
    """y = w * normal(a) + b: the vectors [b_t * normal(a_t), b_t]."""
    shape = list(module.normalized_shape)
    return _norm(module, names, lambda a: nn.functional.layer_norm(a, shape, eps=module.eps))


def rms_norm(module: Any, names: Names) -> Kind:
    """y = w * a / rms(a), or (1 + w) times it: the vectors b_t * a_t / rms(a_t)."""
    given = [getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon")]
    eps = next((value for value in given if value is not None), None)

    def normal(a: Tensor) -> Tensor:
        wide = a if a.dtype == torch.float64 else a.float()
        least = torch.finfo(a.dtype).eps if eps is None else eps
        return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + least)

    return _norm(module, names, normal)


def _norm(module: Any, names: Names, normal: Callable[[Tensor], Tensor]) -> Kind:
    n = getattr(module, names[0]).dim()

    def sides(a: Tensor, b: Tensor) -> Sides:
        vectors = [b * normal(a) if name == "weight" else b for name in names]
        return (torch.cat([vector.flatten(-n) for vector in vectors], -1),)

    size = sum(getattr(module, name).numel() for name in names)
    return Kind(names, (size,), lambda p: torch.cat([p[name].flatten() for name in names]), sides)


def _affine(module: Any, names: Names, transposed: bool) -> Kind:
    if names == ("bias",):
        return Kind(names, _shape(module.bias), lambda p: p["bias"], lambda _, b: (b,))

    def arrange(parameters: Mapping[str, Tensor]) -> Tensor:
        weight = parameters["weight"].T if transposed else parameters["weight"]
        if "bias" not in names:
            return weight
        return torch.cat([weight, parameters["bias"][:, None]], 1)

    def sides(a: Tensor, b: Tensor) -> Sides:
        return b, nn.functional.pad(a, (0, 1), value=1.0) if "bias" in names else a

    n_out, n_in = module.weight.T.shape if transposed else module.weight.shape
    return Kind(names, (n_out, n_in + ("bias" in names)), arrange, sides)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


def _runs(kind: type[nn.Module]) -> Callable[[nn.Module], bool]:
    """Accepts the class and those of its subclasses that do not compute something else."""
    return lambda module: isinstance(module, kind) and type(module).forward is kind.forward


def _embedding(runs: bool) -> Callable[[Any], bool]:
    def accepts(module: Any) -> bool:
        return (
            isinstance(module, nn.Embedding)
            and _runs(nn.Embedding)(module) == runs
            and module.max_norm is None
            and not module.scale_grad_by_freq
        )

    return accepts


def _named(ending: str) -> Callable[[nn.Module], bool]:
    """Accepts classes by name: each Hugging Face model brings its own RMSNorm."""

    def accepts(module: nn.Module) -> bool:
        weight = getattr(module, "weight", None)
        return type(module).__name__.endswith(ending) and isinstance(weight, nn.Parameter)

    return accepts


def _affine_norm(module: Any) -> bool:
    return _runs(nn.LayerNorm)(module) and module.weight is not None


KINDS: tuple[tuple[Callable[[nn.Module], bool], Callable[[Any, Names], Kind]], ...] = (
    (_runs(nn.Linear), linear),
    (_named("Conv1D"), conv1d),
    (_embedding(runs=True), embedding),
    (_embedding(runs=False), looked_up),
    (_affine_norm, layer_norm),
    (_named("RMSNorm"), rms_norm),
    (_named("T5LayerNorm"), rms_norm),
)
