"""Curvature of the training loss, block by block: Kronecker factors and their eigenbases.

| letter | meaning                                                                          |
|--------|----------------------------------------------------------------------------------|
| i      | training example, 1..n (at each of the checkpoints)                              |
| t      | token whose gradient is not zero, 1..N over all examples: padding is none        |
| l, r   | the two sides of a token's gradient, G_i = sum_t l_it r_it^T (`layers`)          |

What is estimated is the Gauss-Newton matrix of the mean over examples of their losses, as the
second moment of the gradients G^ of `outputs.fisher_loss`. Where the loss of a text is the mean
over its targets, each target so enters with weight 1 / (targets of its text): the curvature of a
text is that of its own loss, whatever its length. Grosse et al. sum over tokens instead, which
weighs long texts more and makes all curvature larger by about the length.

A matrix block has L = sum_t l l^T / N and R = sum_t r r^T / n, and

    K-FAC:   H = L x R                             = (Q_L x Q_R) diag(lambda_L x lambda_R) (...)^T
    EK-FAC:  H = (Q_L x Q_R) diag(Lambda) (...)^T,   Lambda = mean_i (Q_L^T G^_i Q_R)^2

A one-hot side has a diagonal second moment: token frequencies. So is that of a side of more than
`MOST_SIDE` entries taken to be, and that of a weight shared by an embedding and a head. Of such a
weight the embedding's and the head's factors are summed, each pair brought to equal traces first,
and the sum to the trace of both products. Two layers that share a weight otherwise count as one
with twice the tokens. A vector block has its exact second moment, or the diagonal of it above
`MOST_VECTOR` entries.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from influence.errors import InputError
from influence.progress import track
from influence.run import blocks
from llm_influence.coverage import moved
from llm_influence.gradients import Gradients, Reduce, whole_gradient
from llm_influence.layers import Shape, Sides
from llm_influence.outputs import Labels, check_built_in, draw_keys, fisher_loss
from llm_influence.projection import Segment
from llm_influence.run import CheckpointRun

MOST_SIDE = 16_384  # entries of a side whose second moment is a matrix: 2 GiB in float64
MOST_VECTOR = 2_048  # entries of a vector block whose second moment is a matrix
MOST_AT_ONCE = 2**29  # bytes of gradients of one block

Spectral = Callable[[Tensor], Tensor]  # from a block's eigenvalues to numbers of the same shape


@dataclass(frozen=True, eq=False)
class Eigen:
    """Curvature of one block in its eigenbasis.

    Attributes:
        bases: Columns are eigenvectors, one matrix for each side of the block; None: the identity.
        values: Eigenvalues, of the block's shape.
    """

    bases: tuple[Tensor | None, ...]
    values: Tensor

    def mapped(self, gradient: Tensor, function: Spectral) -> Tensor:
        """f(H) applied to gradients, shape (n, *shape of the block)."""
        inside = _turned(gradient, self.bases) * function(self.values).to(gradient)
        back = tuple(None if basis is None else basis.T for basis in self.bases)
        return _turned(inside, back)


@dataclass(frozen=True, eq=False)
class Curvature:
    """Curvature of all blocks; between them it is taken to be 0."""

    blocks: Mapping[str, Eigen]
    segments: Mapping[str, Segment]

    def mapped(self, rows: Tensor, function: Spectral) -> Tensor:
        """f(H) applied to rows of whole gradients, shape (n, width)."""
        out = torch.zeros_like(rows)
        for block, eigen in self.blocks.items():
            segment = self.segments[block]
            gradient = rows[:, segment.columns].reshape(-1, *segment.shape)
            out[:, segment.columns] = eigen.mapped(gradient, function).flatten(1)
        return out


def damped(damping: float) -> Spectral:
    """From eigenvalues to those of H + damping * (mean eigenvalue of the block) I."""
    return lambda values: values + damping * values.mean()


def damped_inverse(damping: float) -> Spectral:
    """From eigenvalues to those of the damped inverse; 0 where a block has no curvature at all."""

    def inverse(values: Tensor) -> Tensor:
        raised = damped(damping)(values)
        return torch.where(raised > 0, 1 / raised, torch.zeros_like(raised))

    return inverse


@dataclass(frozen=True, eq=False)
class Fisher:
    """Passes over the training examples whose gradients' second moment is the curvature.

    Attributes:
        run: The run.
        checkpoints: Positions of the checkpoints that are pooled.
        labels: "sampled" from the model (the Fisher matrix) or the "true" ones (the empirical one).
        seed: Seed of the draws.
        progress: Show a bar.
    """

    run: CheckpointRun
    checkpoints: Sequence[int]
    labels: Labels
    seed: int
    progress: bool

    def __post_init__(self) -> None:
        if self.labels not in ("sampled", "true"):
            raise InputError(f'labels must be "sampled" or "true", got {self.labels!r}.')
        if self.labels == "sampled":
            instead = 'give labels="true" (the empirical Fisher matrix)'
            check_built_in(self.run.loss, "Sampling labels from the model", instead)

    def each_batch(self, reduce: Reduce, use: Callable[[dict[str, list[Sides]]], None]) -> int:
        """Calls `use` with the reduced sides of each batch; gives the number of examples."""
        run, examples = self.run, self.run.examples
        batches = list(run.batches(examples))
        for checkpoint, keys in zip(self.checkpoints, self._keys, strict=True):
            with (
                run.at(checkpoint) as model,
                Gradients(model, run.coverage.layers, reduce, run.autocast) as gradients,
            ):
                for rows in track(batches, "curvature", len(batches), self.progress):
                    losses, found = self._sides(gradients, rows, [keys[row] for row in rows])
                    if not torch.isfinite(losses).all():
                        raise InputError(
                            f"Expected finite losses, got {losses.tolist()} for the training "
                            f"examples at {rows.tolist()}; leave the bad one out."
                        )
                    use(found)
        return len(self.checkpoints) * examples.n_queries

    @cached_property
    def _keys(self) -> list[list[int]]:
        if self.labels == "true":
            return [[0] * self.run.n_train for _ in self.checkpoints]
        return [draw_keys(self.run.examples, self.seed, c) for c in self.checkpoints]

    def _sides(
        self, gradients: Gradients, rows: NDArray[np.int64], keys: Sequence[int]
    ) -> tuple[Tensor, dict[str, list[Sides]]]:
        batch = moved(self.run.examples.batch(rows), self.run.device)
        return gradients.sides(fisher_loss(self.run.loss, self.labels, keys), batch, len(rows))


def kronecker_curvature(
    fisher: Fisher, segments: Mapping[str, Segment], corrected: bool
) -> Curvature:
    """K-FAC in one pass over the examples, EK-FAC (`corrected`) in two.

    Cost: the first pass adds n_out^2 + n_in^2 multiplications a token to a forward and backward
    pass; the factorisations are O(n_out^3 + n_in^3); the second pass adds n_out^2 + n_in^2 +
    n_out n_in a token. Memory: the factors in float64, and Lambda.
    """
    shapes = {block: segment.shape for block, segment in segments.items()}
    bases = _factored(fisher, shapes)
    return Curvature(_corrected(fisher, bases) if corrected else bases, segments)


@dataclass(eq=False)
class _Sums:
    """Sums over tokens of the second moments of two sides; a vector is the diagonal of one."""

    shape: Shape
    diagonal: bool  # of the left side
    left: Tensor | None = None
    right: Tensor | None = None
    n_tokens: int = 0

    def add(self, left: Tensor, right: Tensor) -> None:
        one_hot = not left.is_floating_point()
        alive = right.ne(0).any(-1)
        if not one_hot:
            alive &= left.ne(0).any(-1)
        left, right = left[alive], right[alive]
        right = nn.functional.pad(right, (0, self.shape[1] - right.shape[-1]))
        if one_hot:
            seen = torch.bincount(left.long(), minlength=self.shape[0]).double()
        else:
            seen = _moment(left, self.diagonal)
        other = _moment(right, self.shape[1] > MOST_SIDE)
        self.left = seen if self.left is None else self.left + seen
        self.right = other if self.right is None else self.right + other
        self.n_tokens += len(left)


@dataclass(eq=False)
class _Factors:
    """First pass: sums of matrix blocks, one-hot parts apart, and second moments of vectors."""

    shapes: Mapping[str, Shape]
    diagonal: set[str]
    parts: dict[tuple[str, bool], _Sums] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)

    def reduce(self, block: str, sides: Sides) -> Sides:
        if len(sides) == 1:
            return (sides[0].sum(1, keepdim=True),)
        left, right = sides
        key = (block, left.is_floating_point())
        if key not in self.parts:
            self.parts[key] = _Sums(self.shapes[block], block in self.diagonal)
        self.parts[key].add(left, right)
        return ()

    def use(self, found: Mapping[str, list[Sides]]) -> None:
        for block, parts in found.items():
            if parts[0]:
                vectors = torch.stack([part[0] for part in parts]).sum(0)[:, 0]
                moment = _moment(vectors, block in self.diagonal)
                self.vectors[block] = self.vectors.get(block, torch.zeros_like(moment)) + moment

    def eigen(self, block: str, n_examples: int) -> Eigen:
        shape = self.shapes[block]
        if block in self.vectors:
            values, basis = _eigen(self.vectors[block] / n_examples)
            return Eigen((basis,), values)
        parts = [part for (name, _), part in self.parts.items() if name == block and part.n_tokens]
        if not parts:
            return Eigen((None,) * len(shape), torch.zeros(shape, dtype=torch.float64))
        left, right = _summed(parts, n_examples)
        left_values, left_basis = _eigen(left)
        right_values, right_basis = _eigen(right)
        return Eigen((left_basis, right_basis), torch.outer(left_values, right_values))


def _factored(fisher: Fisher, shapes: Mapping[str, Shape]) -> dict[str, Eigen]:
    modules = dict(fisher.run.model.named_modules())
    diagonal = {
        layer.block
        for layer in fisher.run.coverage.layers
        if isinstance(modules[layer.module], nn.Embedding)
    }
    for block, shape in shapes.items():
        if shape[0] > (MOST_VECTOR if len(shape) == 1 else MOST_SIDE):
            diagonal.add(block)
    factors = _Factors(shapes, diagonal)
    n_examples = fisher.each_batch(factors.reduce, factors.use)
    return {block: factors.eigen(block, n_examples) for block in shapes}


def _corrected(fisher: Fisher, bases: Mapping[str, Eigen]) -> dict[str, Eigen]:
    """Second pass: eigenvalues replaced by the second moments along the eigenvectors."""
    values = {block: torch.zeros_like(eigen.values) for block, eigen in bases.items()}

    def reduce(block: str, sides: Sides) -> Sides:
        if len(sides) == 1:
            return ()
        turned = zip(sides, bases[block].bases, strict=True)
        return tuple(
            side if basis is None else _wide(side) @ basis[: side.shape[-1]].to(_wide(side))
            for side, basis in turned
        )

    def use(found: Mapping[str, list[Sides]]) -> None:
        for block, parts in found.items():
            if not parts[0]:
                continue
            size = max(1, MOST_AT_ONCE // (8 * values[block].numel()))
            for some in blocks(len(parts[0][0]), size):
                chosen = [tuple(side[some] for side in sides) for sides in parts]
                dtype = _wide(parts[0][1]).dtype
                gradient = whole_gradient(chosen, tuple(values[block].shape), dtype)
                values[block] += gradient.square().sum(0)

    n_examples = fisher.each_batch(reduce, use)
    return {
        block: eigen if len(eigen.bases) == 1 else Eigen(eigen.bases, values[block] / n_examples)
        for block, eigen in bases.items()
    }


def _summed(parts: Sequence[_Sums], n_examples: int) -> tuple[Tensor, Tensor]:
    """Factors of a block whose parts were brought to equal traces before they were added."""
    lefts, rights, total = [], [], 0.0
    for part in parts:
        assert part.left is not None and part.right is not None
        left, right = part.left / part.n_tokens, part.right / n_examples
        balance = (_trace(right) / _trace(left)) ** 0.5
        total += _trace(left) * _trace(right)
        lefts.append(left * balance)
        rights.append(right / balance)
    left, right = torch.stack(lefts).sum(0), torch.stack(rights).sum(0)
    return left * (total / (_trace(left) * _trace(right))), right


def _trace(moment: Tensor) -> float:
    return float(moment.sum() if moment.dim() == 1 else moment.trace())


def _moment(vectors: Tensor, diagonal: bool) -> Tensor:
    """Sum of v v^T over rows in float64, or its diagonal."""
    wide = _wide(vectors)
    return (wide.square().sum(0) if diagonal else wide.T @ wide).double()


def _wide(side: Tensor) -> Tensor:
    return side if side.dtype == torch.float64 else side.float()


def _eigen(moment: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues and eigenvectors; those of a diagonal are its entries and the identity."""
    if moment.dim() == 1:
        return moment, None
    values, basis = torch.linalg.eigh(moment)
    return values.clamp_min(0), basis


def _turned(gradient: Tensor, bases: Sequence[Tensor | None]) -> Tensor:
    """Every axis but the first multiplied by the transpose of its basis."""
    left, *right = bases
    if left is not None:
        gradient = torch.einsum("rp,nr...->np...", left.to(gradient), gradient)
    if right and right[0] is not None:
        gradient = gradient @ right[0].to(gradient)
    return gradient
