"""Projections: from the gradient of a block to a few numbers, frozen by their specification.

A projection P keeps inner products on average, E[P^T P] = I, so that <P g, P g'> estimates
<g, g'>. `bind` makes its matrices for the blocks of a model; what it makes follows from the
specification alone (kind, sizes, entries, seed, version, names of the blocks), on any machine.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from influence.checks import check_whole
from influence.errors import InputError
from llm_influence.layers import Shape, Sides

VERSION = 1  # raised when the same specification would give other numbers


@dataclass(frozen=True)
class Segment:
    """The columns that a block's projected gradient takes in a row."""

    block: str
    shape: Shape
    columns: slice


class Bound(ABC):
    """A projection with its matrices, for the blocks of one model."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        self.segments = {segment.block: segment for segment in segments}
        self.width = max((segment.columns.stop for segment in segments), default=0)

    @abstractmethod
    def reduce(self, block: str, sides: Sides) -> Sides:
        """Smaller sides with the same projected gradient, as soon as they are known."""

    @abstractmethod
    def add(self, block: str, sides: Sides, out: Tensor) -> None:
        """Adds the projected gradient of reduced sides to rows, shape (n_examples, width)."""

    @abstractmethod
    def add_whole(self, block: str, gradient: Tensor, out: Tensor) -> None:
        """The same for the gradient itself, shape (n_examples, *shape of the block)."""


class Projection(ABC):
    """What maps gradients to rows; frozen, and compared by its specification."""

    @property
    @abstractmethod
    def specification(self) -> Mapping[str, Any]:
        """Everything the numbers depend on, ready for JSON."""

    @abstractmethod
    def bind(self, shapes: Mapping[str, Shape], like: Tensor) -> Bound:
        """Makes the matrices, on the device and in the number type of `like`."""


@dataclass(frozen=True)
class Identity(Projection):
    """No projection: rows are whole gradients."""

    @property
    def specification(self) -> Mapping[str, Any]:
        return {"kind": "identity", "version": VERSION}

    def bind(self, shapes: Mapping[str, Shape], like: Tensor) -> Bound:
        sizes = {block: int(np.prod(shape)) for block, shape in shapes.items()}
        return _Whole(laid_out(shapes, sizes))


class _OfWhole(Bound):
    """A projection that has to make the gradient first."""

    def reduce(self, block: str, sides: Sides) -> Sides:
        return sides

    def add(self, block: str, sides: Sides, out: Tensor) -> None:
        self.add_whole(block, whole(sides, self.segments[block].shape, out.dtype), out)


class _Whole(_OfWhole):
    def add_whole(self, block: str, gradient: Tensor, out: Tensor) -> None:
        out[:, self.segments[block].columns] += gradient.flatten(1)


@dataclass(frozen=True)
class Kronecker(Projection):
    """P = L x R on every matrix: L G R^T, with L and R of p rows and entries of variance 1 / p.

    Both sides are projected before their outer product, so a gradient is never made: p (n_out +
    n_in) multiplications a token instead of n_out n_in. A side of at most p entries is kept as it
    is. Vectors (of norms) are projected to p numbers by a matrix of the same kind.

    Args:
        p: Size of each side; a matrix becomes p x p numbers. What a smaller p costs is in the
            table of projections of benchmarks/README.md.
        entries: "rademacher" (+-1) or "normal".
        seed: Seed of the entries.
    """

    p: int = 16
    entries: Literal["rademacher", "normal"] = field(default="rademacher", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_whole("p", self.p, least=1)
        _check_drawn(self.entries, self.seed)

    @property
    def specification(self) -> Mapping[str, Any]:
        return {
            "kind": "kronecker", "version": VERSION, "p": int(self.p), "entries": self.entries,
            "seed": int(self.seed),
        }  # fmt: skip

    def bind(self, shapes: Mapping[str, Shape], like: Tensor) -> Bound:
        matrices: dict[str, tuple[Tensor | None, ...]] = {}
        for block, shape in shapes.items():
            matrices[block] = tuple(
                None if n <= self.p else self._matrix(f"{block}/{side}", n).to(like)
                for side, n in enumerate(shape)
            )
        return Factored(shapes, matrices)

    def _matrix(self, name: str, n: int) -> Tensor:
        return random_matrix(f"{self.seed}/{name}", self.p, n, self.entries)


class Factored(Bound):
    """Both sides of every matrix projected on their own; None keeps a side."""

    def __init__(
        self, shapes: Mapping[str, Shape], matrices: Mapping[str, Sequence[Tensor | None]]
    ) -> None:
        self._kept = {
            block: tuple(
                n if matrix is None else len(matrix)
                for n, matrix in zip(shape, matrices[block], strict=True)
            )
            for block, shape in shapes.items()
        }
        sizes = {block: int(np.prod(kept)) for block, kept in self._kept.items()}
        super().__init__(laid_out(shapes, sizes))
        self._matrices = matrices

    def reduce(self, block: str, sides: Sides) -> Sides:
        paired = zip(sides, self._matrices[block], strict=True)
        if len(sides) == 1:  # the sum over tokens first: one product instead of one for each
            return (_project(sides[0].sum(1, keepdim=True), self._matrices[block][0]),)
        return tuple(_project(side, matrix) for side, matrix in paired)

    def add(self, block: str, sides: Sides, out: Tensor) -> None:
        reduced = whole(sides, self._kept[block], out.dtype)
        out[:, self.segments[block].columns] += reduced.flatten(1)

    def add_whole(self, block: str, gradient: Tensor, out: Tensor) -> None:
        left, *right = self._matrices[block]
        if left is not None:
            gradient = torch.einsum("pr,nr...->np...", left, gradient)
        if right and right[0] is not None:
            gradient = gradient @ right[0].T
        out[:, self.segments[block].columns] += gradient.flatten(1)


@dataclass(frozen=True)
class Dense(Projection):
    """One dense random matrix over all parameters, entries +-1 / sqrt(k): the reference.

    Gradients are made and multiplied: k multiplications for each parameter and example. The matrix
    takes 4 k bytes a parameter, so this is for small models.

    Args:
        k: Numbers in a row.
        entries: "rademacher" (+-1) or "normal".
        seed: Seed of the entries.
    """

    k: int = 4096
    entries: Literal["rademacher", "normal"] = field(default="rademacher", kw_only=True)
    seed: int = field(default=0, kw_only=True)

    MOST_BYTES = 8 * 2**30

    def __post_init__(self) -> None:
        check_whole("k", self.k, least=1)
        _check_drawn(self.entries, self.seed)

    @property
    def specification(self) -> Mapping[str, Any]:
        return {
            "kind": "dense", "version": VERSION, "k": int(self.k), "entries": self.entries,
            "seed": int(self.seed),
        }  # fmt: skip

    def bind(self, shapes: Mapping[str, Shape], like: Tensor) -> Bound:
        sizes = {block: int(np.prod(shape)) for block, shape in shapes.items()}
        needed = self.k * sum(sizes.values()) * like.element_size()
        if needed > self.MOST_BYTES:
            raise InputError(
                f"Dense(k={self.k}) needs a matrix of {needed / 2**30:.0f} GiB for "
                f"{sum(sizes.values()):,} parameters, more than {self.MOST_BYTES / 2**30:.0f} GiB; "
                "use Kronecker, a smaller k, or fewer modules."
            )
        matrices = {
            block: random_matrix(f"{self.seed}/{block}", self.k, size, self.entries).to(like)
            for block, size in sizes.items()
        }
        return _Dense([Segment(b, s, slice(0, self.k)) for b, s in shapes.items()], matrices)


class _Dense(_OfWhole):
    def __init__(self, segments: Sequence[Segment], matrices: Mapping[str, Tensor]) -> None:
        super().__init__(segments)
        self._matrices = matrices

    def add_whole(self, block: str, gradient: Tensor, out: Tensor) -> None:
        out += gradient.flatten(1) @ self._matrices[block].T


def laid_out(shapes: Mapping[str, Shape], sizes: Mapping[str, int]) -> list[Segment]:
    """Segments one after another."""
    segments, start = [], 0
    for block, shape in shapes.items():
        segments.append(Segment(block, shape, slice(start, start + sizes[block])))
        start += sizes[block]
    return segments


def whole(sides: Sides, shape: Shape, dtype: torch.dtype) -> Tensor:
    """The gradient that sides stand for, shape (n_examples, *shape)."""
    if len(sides) == 1:
        return sides[0].to(dtype).sum(1)
    left, right = sides
    right = torch.nn.functional.pad(right, (0, shape[1] - right.shape[-1])).to(dtype)
    if left.dtype in (torch.int32, torch.int64):
        gradient = right.new_zeros(len(left), *shape)
        ids = left.long()[..., None].expand(-1, -1, shape[1])
        return gradient.scatter_add_(1, ids, right)
    return left.to(dtype).transpose(1, 2) @ right


def random_matrix(name: str, n_rows: int, n_columns: int, entries: str) -> Tensor:
    """Entries of mean 0 and variance 1 / n_rows, the same for a name on every machine.

    Bits come from Philox, whose stream is part of its definition; normal entries are the normal
    quantiles of 32 bits each.
    """
    key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16).digest(), "little")
    bits = np.random.Philox(key=key)
    n = n_rows * n_columns
    if entries == "rademacher":
        raw = bits.random_raw(-(-n // 64)).astype("<u8").view(np.uint8)
        signs = np.unpackbits(raw, count=n, bitorder="little").astype(np.float32)
        values = 2 * signs - 1
    else:
        from scipy.special import ndtri

        raw = bits.random_raw(-(-n // 2)).astype("<u8").view("<u4")[:n]
        values = ndtri((raw + 0.5) / 2.0**32).astype(np.float32)
    return torch.from_numpy(values.reshape(n_rows, n_columns) / np.float32(np.sqrt(n_rows)))


def _check_drawn(entries: str, seed: int) -> None:
    check_whole("seed", seed)
    if entries not in ("rademacher", "normal"):
        raise InputError(f'entries must be "rademacher" or "normal", got {entries!r}.')


def _project(side: Tensor, matrix: Tensor | None) -> Tensor:
    """Multiplies the last axis; a side of whole numbers is one-hot."""
    if side.dtype in (torch.int32, torch.int64):
        if matrix is None:
            return side
        return matrix.T[side.long()]
    if matrix is None:
        return side
    # A tied layer without bias has one column less than the block.
    return side @ matrix[:, : side.shape[-1]].T.to(side.dtype)
