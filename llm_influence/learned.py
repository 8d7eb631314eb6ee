"""`PCA`: a projection learned from the gradients themselves, kept beside the rows it made."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from influence.checks import check_whole
from influence.errors import StorageError
from llm_influence.gradients import Gradients, whole_gradient
from llm_influence.layers import Shape
from llm_influence.plan import PROJECTION
from llm_influence.projection import VERSION, Bound, Factored, Projection, random_matrix
from llm_influence.rows import RowMap, ranks

MOST_SIDE = 4_096  # a longer side is projected at random: its second moment is too large
Matrices = Mapping[str, Sequence[Tensor | None]]


@dataclass(frozen=True)
class PCA:
    """Projects both sides of every matrix to the p directions that hold most of its gradients.

    L and R are the leading eigenvectors of E[G G^T] and E[G^T G] over some training examples, at
    the last checkpoint and after the estimator's own scaling: what is kept of a gradient is its
    largest part, instead of a random one, so the same p keeps more; inner products are too small
    on average, E[P^T P] is not I. Sides of more than 4,096 entries (vocabularies) are projected at
    random. With a store the matrices are kept in it.

    Cost: whole gradients of `n_examples` examples, and an eigendecomposition for every side,
    O(n^3).

    Reference: Choe et al., "What is Your Data Worth to GPT?", 2024, section 3.2, which takes the
    eigenvectors of the layers' inputs and output gradients instead of the gradients'.

    Args:
        p: Size of each side.
        n_examples: How many training examples to learn from.
        seed: Seed of their choice, and of the random sides.
    """

    p: int = 16
    n_examples: int = field(default=512, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        check_whole("p", self.p, least=1)
        check_whole("n_examples", self.n_examples, least=1)
        check_whole("seed", self.seed)


@dataclass(frozen=True, eq=False)
class Learned(Projection):
    """What a `PCA` became: its matrices.

    Attributes:
        pca: What they were learned by.
        matrices: For each block its sides' matrices, None for a side that is kept.
    """

    pca: PCA
    matrices: Matrices

    @property
    def specification(self) -> Mapping[str, Any]:
        digest = hashlib.blake2b(digest_size=16)
        for block, sides in self.matrices.items():
            for side in sides:
                digest.update(block.encode())
                if side is not None:
                    digest.update(np.ascontiguousarray(side.cpu().numpy()).data)
        return {
            "kind": "pca",
            "version": VERSION,
            **_told(self.pca),
            "matrices": digest.hexdigest(),
        }

    def bind(self, shapes: Mapping[str, Shape], like: Tensor) -> Bound:
        matrices = {
            block: tuple(None if side is None else side.to(like) for side in self.matrices[block])
            for block in shapes
        }
        return Factored(shapes, matrices)


def projected_by(
    rows_of: RowMap, projection: Projection | PCA, store: str | os.PathLike[str] | None
) -> RowMap:
    """The row map with its projection; a `PCA` is read from the store, or learned and kept there.

    Raises:
        StorageError: The store's projection was learned otherwise.
    """
    if isinstance(projection, Projection):
        return replace(rows_of, projection=projection)
    file = None if store is None else Path(store) / PROJECTION
    rank, n_ranks = ranks()
    if file is None or (not file.exists() and rank == 0):
        learned = Learned(projection, _learned(rows_of, projection))
        if file is not None:
            _write(file, learned)
    if n_ranks > 1:
        torch.distributed.barrier()
    if file is not None:
        learned = _read(file, projection, rows_of)
    return replace(rows_of, projection=learned)


def _learned(rows_of: RowMap, pca: PCA) -> dict[str, tuple[Tensor | None, ...]]:
    moments = _moments(rows_of, pca)
    matrices = {}
    for block, of in rows_of.run.coverage.blocks.items():
        sides: list[Tensor | None] = []
        for side, n in enumerate(of.shape):
            moment = moments[block][side]
            if n <= pca.p:
                sides.append(None)
            elif moment is None:
                sides.append(random_matrix(f"{pca.seed}/{block}/{side}", pca.p, n, "rademacher"))
            else:
                vectors = torch.linalg.eigh(moment.double())[1][:, -pca.p :]
                sides.append(vectors.T.flip(0).float().cpu().contiguous())
        matrices[block] = tuple(sides)
    return matrices


def _moments(rows_of: RowMap, pca: PCA) -> dict[str, list[Tensor | None]]:
    """Sums over examples of G G^T and G^T G (of a vector g g^T), None where a side is too long."""
    run = rows_of.run
    rng = np.random.default_rng(pca.seed)
    chosen = np.sort(rng.permutation(run.n_train)[: pca.n_examples]).astype(np.int64)
    examples = run.examples.take(chosen)
    checkpoint = len(run.checkpoints) - 1
    transform = rows_of.transforms(checkpoint)
    found: dict[str, list[Tensor | None]] = {}
    with (
        run.at(checkpoint) as model,
        Gradients(model, run.coverage.layers, lambda _, sides: sides, run.autocast) as gradients,
    ):
        for rows in run.batches(examples):
            batch = run.batch(examples, rows)
            losses, parts = gradients.sides(rows_of.output or run.loss, batch, len(rows))
            dtype = torch.float64 if losses.dtype == torch.float64 else torch.float32
            for block, sides in parts.items():
                gradient = whole_gradient(sides, run.coverage.blocks[block].shape, dtype)
                if transform is not None:
                    gradient = transform(block, gradient)
                _add(found.setdefault(block, []), gradient)
    return found


def _add(sums: list[Tensor | None], gradient: Tensor) -> None:
    """Adds the second moments of a block's gradients, shape (n_examples, *shape)."""
    for side in range(gradient.dim() - 1):
        n = gradient.shape[side + 1]
        if side == len(sums):
            sums.append(None if n > MOST_SIDE else gradient.new_zeros(n, n))
        total = sums[side]
        if total is not None:
            across = gradient.movedim(side + 1, 0).flatten(1)
            total += across @ across.T


def _told(pca: PCA) -> dict[str, int]:
    return {"p": int(pca.p), "n_examples": int(pca.n_examples), "seed": int(pca.seed)}


def _write(file: Path, learned: Learned) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{side}/{block}": matrix
        for block, sides in learned.matrices.items()
        for side, matrix in enumerate(sides)
        if matrix is not None
    }
    part = file.with_name(f".{file.name}.part")
    save_file(tensors, part, metadata={"pca": json.dumps(_told(learned.pca))})
    part.replace(file)


def _read(file: Path, pca: PCA, rows_of: RowMap) -> Learned:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            told = json.loads((opened.metadata() or {}).get("pca", "null"))
            held = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise StorageError(
            f"The store's projection {file} cannot be read ({error}): delete the store and build "
            "it again."
        ) from error
    if told != _told(pca):
        raise StorageError(
            f"Expected a store whose projection was learned by PCA with {_told(pca)}, {file} has "
            f"{told}: use another folder, or delete this one and build the store again."
        )
    return Learned(
        pca,
        {
            block: tuple(held.get(f"{side}/{block}") for side in range(len(of.shape)))
            for block, of in rows_of.run.coverage.blocks.items()
        },
    )
