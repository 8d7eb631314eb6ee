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

Sides = tuple[Tensor, ...]  # (left, right), or (vectors,)
Shape = tuple[int, ...]  # of the block's gradient: (n_rows, n_columns), or (n,)


@dataclass(frozen=True, eq=False)
class Kind:
    """What is known of one layer.

    Attributes:
        parameters: Names of its parameters, as the layer calls them.
        shape: Shape of its gradient as one matrix or vector.
        arrange: From one tensor per parameter to a tensor of that shape.
        sides: From (a, b) to the sides of its gradient.
    """

    parameters: tuple[str, ...]
    shape: Shape
    arrange: Callable[[Mapping[str, Tensor]], Tensor]
    sides: Callable[[Tensor, Tensor], Sides]


def kind_of(module: nn.Module) -> Kind | None:
    """The layer's kind, None if there is none for it."""
    for accepts, make in KINDS:
        if accepts(module):
            return make(module)
    return None


def linear(module: nn.Linear) -> Kind:
    """y = W a + b: G = sum_t b_t [a_t, 1]^T."""
    return _affine(module, transposed=False)


def conv1d(module: Any) -> Kind:
    """The linear layer of Hugging Face's GPT-2, whose weight is stored as (n_in, n_out)."""
    return _affine(module, transposed=True)


def embedding(module: nn.Embedding) -> Kind:
    """Row x_t of a table: G = sum_t onehot(x_t) b_t^T; rows of `padding_idx` are not trained."""
    padding = module.padding_idx

    def sides(ids: Tensor, b: Tensor) -> Sides:
        if padding is not None:
            b = b * (ids != padding)[..., None]
        return ids, b

    return Kind(("weight",), _shape(module.weight), lambda p: p["weight"], sides)


def layer_norm(module: nn.LayerNorm) -> Kind:
    """y = w * normal(a) + b: the vectors [b_t * normal(a_t), b_t]."""
    names = _present(module)
    n = len(module.normalized_shape)

    def sides(a: Tensor, b: Tensor) -> Sides:
        normal = nn.functional.layer_norm(a, list(module.normalized_shape), eps=module.eps)
        vectors = [b * normal, b] if len(names) == 2 else [b * normal]
        return (torch.cat([vector.flatten(-n) for vector in vectors], -1),)

    size = module.weight.numel() * len(names)
    return Kind(names, (size,), lambda p: torch.cat([p[name].flatten() for name in names]), sides)


def rms_norm(module: Any) -> Kind:
    """y = w * a / rms(a), or (1 + w) times it: the vectors b_t * a_t / rms(a_t)."""
    given = [getattr(module, name, None) for name in ("variance_epsilon", "eps", "epsilon")]
    eps = next((value for value in given if value is not None), None)

    def sides(a: Tensor, b: Tensor) -> Sides:
        wide = a if a.dtype == torch.float64 else a.float()
        least = torch.finfo(a.dtype).eps if eps is None else eps
        return (b * wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + least),)

    return Kind(("weight",), _shape(module.weight), lambda p: p["weight"], sides)


def _affine(module: Any, transposed: bool) -> Kind:
    names = _present(module)

    def arrange(parameters: Mapping[str, Tensor]) -> Tensor:
        weight = parameters["weight"].T if transposed else parameters["weight"]
        if "bias" not in names:
            return weight
        return torch.cat([weight, parameters["bias"][:, None]], 1)

    def sides(a: Tensor, b: Tensor) -> Sides:
        return b, nn.functional.pad(a, (0, 1), value=1.0) if "bias" in names else a

    n_out, n_in = module.weight.T.shape if transposed else module.weight.shape
    return Kind(names, (n_out, n_in + ("bias" in names)), arrange, sides)


def _present(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name in ("weight", "bias") if getattr(module, name, None) is not None)


def _shape(tensor: Tensor) -> Shape:
    return tuple(tensor.shape)


def _runs(kind: type[nn.Module]) -> Callable[[nn.Module], bool]:
    """Accepts the class and those of its subclasses that do not compute something else."""
    return lambda module: isinstance(module, kind) and type(module).forward is kind.forward


def _plain_embedding(module: Any) -> bool:
    return _runs(nn.Embedding)(module) and module.max_norm is None and not module.scale_grad_by_freq


def _named(ending: str) -> Callable[[nn.Module], bool]:
    """Accepts classes by name: each Hugging Face model brings its own RMSNorm."""

    def accepts(module: nn.Module) -> bool:
        weight = getattr(module, "weight", None)
        return type(module).__name__.endswith(ending) and isinstance(weight, nn.Parameter)

    return accepts


def _affine_norm(module: Any) -> bool:
    return _runs(nn.LayerNorm)(module) and module.weight is not None


KINDS: tuple[tuple[Callable[[nn.Module], bool], Callable[[Any], Kind]], ...] = (
    (_runs(nn.Linear), linear),
    (_named("Conv1D"), conv1d),
    (_plain_embedding, embedding),
    (_affine_norm, layer_norm),
    (_named("RMSNorm"), rms_norm),
)
