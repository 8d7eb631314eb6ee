"""`TrackStar`: cosines of gradients scaled by Adam's second moment, projected and whitened."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from influence.checks import check_positive, check_share
from influence.errors import InputError, MissingParameterError
from llm_influence.adam_state import adam_fingerprint, adam_state, typical_root
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.coverage import moved
from llm_influence.gradients import Gradients, Transform, whole_gradient
from llm_influence.projection import Kronecker, Projection
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun

MOST_SIDE = 8192  # of a matrix whose eigenvectors are found: 512 MiB in float64

Blocks = Callable[[], Iterator[Tensor]]


@dataclass(frozen=True, eq=False)
class Mixture:
    """Examples whose second moment is mixed into that of the training examples.

    What they have in common (a template, a language) then counts less.

    Args:
        examples: Examples like the queries, e.g. all queries of an evaluation.
        share: Their part in the mixture; the paper has .9 and .99.
    """

    examples: Any = field(repr=False)
    share: float = 0.9

    def __post_init__(self) -> None:
        check_share("share", self.share)


class TrackStar(ByRows):
    """Cosine of gradients, scaled by Adam's second moment, projected, and whitened.

        values[i, q] = mean_c cos(G_q, G_i),    G = R^-1/2 P (g / (sqrt(V) + eps))
        R = (1 - share) R_train + share R_mix + lambda I

    with R_train the second moment mean_i r_i r_i^T of the training examples' rows
    r = P (g / (sqrt(V) + eps)), R_mix that of `mix`, and lambda = damping * trace(R_train) / n. R
    is one matrix for each matrix of parameters, taken as independent of the others (the paper: for
    each of a few groups of layers); for `Dense`, which mixes all parameters, it is one whole. The
    mean is over the run's checkpoints; the paper has the last one alone.

    R_mix is of the examples of `mix`, never of the queries that happen to be asked together: an
    answer does not depend on them. Without `mix`, R is that of the training examples.

    Sign: positive = proponent. Unit: "similarity".
    Cost: fit makes every training gradient to scale it, O(parameters) an example besides its passes
    (with moment="gradients" twice), and finds the eigenvectors of R, O(p^6) for each matrix of
    parameters. A block of queries costs their gradients, made whole, and the whitening of all
    rows, O(n_train width p^2). It keeps V in memory.
    Wrong where few examples meet wide rows: R^-1/2 then is mostly damping. A matrix of parameters
    whose gradients are all zero in training counts for nothing.

    Reference: Chang, Rajagopal, Bolukbasi, Dixon, Tenney, "Scalable Influence and Fact Tracing for
    Large Language Model Pretraining", 2024, section 3. The paper has Adafactor's V, no eps and no
    damping.

    Args:
        projection: What scaled gradients are projected by.
        damping: lambda in units of the rows' mean squared length / n, matrix by matrix.
        mix: Examples whose second moment is mixed in.
        moment: V is "adam", the checkpoint's own (of mean gradients of batches, over the last
            steps), or "gradients", the mean of squares of the training examples' gradients there,
            for checkpoints without it.
        eps: Added to sqrt(V); None takes the median of sqrt(V) where V > 0, without which
            parameters that never moved (words not met in training) would rule.
    """

    unit = "similarity"

    def __init__(
        self,
        projection: Projection = Kronecker(16),  # noqa: B008  frozen
        damping: float = 1.0,
        *,
        mix: Mixture | None = None,
        moment: Literal["adam", "gradients"] = "adam",
        eps: float | None = None,
    ) -> None:
        if moment not in ("adam", "gradients"):
            raise InputError(f'moment must be "adam" or "gradients", got {moment!r}.')
        if mix is not None and not isinstance(mix, Mixture):
            raise InputError(f"mix must be Mixture(examples, share), got a {type(mix).__name__}.")
        for name, value in (("damping", damping), ("eps", 1.0 if eps is None else eps)):
            check_positive(name, value)
        self.projection = projection
        self.damping = damping
        self.mix = mix
        self.moment: Literal["adam", "gradients"] = moment
        self.eps = eps

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        rows_of = self._row_map(run)
        groups = _groups(rows_of)
        train = training_rows(rows_of, store, progress)
        steps = []
        for c in range(len(run.checkpoints)):
            own = second_moments(lambda c=c: (rows for _, rows in train.blocks(c)), groups)
            mixed = own
            if self.mix is not None:
                others = rows_of.rows(c, run.queries(self.mix.examples))
                more = second_moments(lambda rows=others: iter([rows]), groups)
                share = self.mix.share
                mixed = [(1 - share) * a + share * b for a, b in zip(own, more, strict=True)]
            ridges = [float(self.damping * a.trace() / run.n_train) for a in own]
            side = Side(_rooted(groups, mixed, ridges), unit=True)
            steps.append(Step(c, train, rows_of, rows_of, side, side, 1 / len(run.checkpoints)))
        return steps

    def _row_map(self, run: CheckpointRun) -> RowMap:
        if self.moment == "adam":
            found: Any = [_adam_fingerprint(run, c) for c in range(len(run.checkpoints))]
        else:
            found = run.examples.content(slice(0, run.n_train))

        @cache
        def scaling(checkpoint: int) -> Transform:
            return _scaling(run, checkpoint, self.moment, self.eps)

        about = {"scale": "1 / sqrt(V)", "moment": self.moment, "eps": self.eps, "V": found}
        return RowMap(run, self.projection, transforms=scaling, about=about)


def squares(run: CheckpointRun, checkpoint: int) -> dict[str, Tensor]:
    """Mean of the squares of the training examples' gradients at a checkpoint, by block."""
    total = {
        name: torch.zeros(b.shape, device=run.device, dtype=torch.float64)
        for name, b in run.coverage.blocks.items()
    }
    with (
        run.at(checkpoint) as model,
        Gradients(
            model, run.coverage.layers, lambda block, sides: sides, run.autocast
        ) as gradients,
    ):
        for rows in run.batches(run.examples):
            batch = moved(run.examples.batch(rows), run.device)
            losses, found = gradients.sides(run.loss, batch, len(rows))
            dtype = torch.float64 if losses.dtype == torch.float64 else torch.float32
            for name, parts in found.items():
                shape = run.coverage.blocks[name].shape
                total[name] += whole_gradient(parts, shape, dtype).square().sum(0)
    return {name: value / run.n_train for name, value in total.items()}


def second_moments(blocks: Blocks, groups: Sequence[slice]) -> list[Tensor]:
    """Mean of r r^T over rows r, for each group of their columns, in float64 on the CPU."""
    moments = [torch.zeros(g.stop - g.start, g.stop - g.start).double() for g in groups]
    n = 0
    for rows in blocks():
        n += len(rows)
        for moment, group in zip(moments, groups, strict=True):
            own = rows[:, group].double().cpu()
            moment += own.T @ own
    return [moment / n for moment in moments]


def _groups(rows_of: RowMap) -> list[slice]:
    """Columns of rows that have a second moment of their own."""
    spans = {(s.columns.start, s.columns.stop) for s in rows_of.bound.segments.values()}
    groups = [slice(*span) for span in sorted(spans)]
    widest = max(group.stop - group.start for group in groups)
    if widest > MOST_SIDE:
        raise InputError(
            f"TrackStar finds the eigenvectors of matrices of at most {MOST_SIDE:,} columns, this "
            f"projection makes one of {widest:,}; use a smaller one, e.g. Kronecker(16)."
        )
    return groups


def _rooted(
    groups: Sequence[slice], moments: Sequence[Tensor], ridges: Sequence[float]
) -> Callable[[Tensor], Tensor]:
    """From rows to rows times (R + ridge I)^-1/2, by groups; zero where training rows are."""
    roots = []
    for moment, ridge in zip(moments, ridges, strict=True):
        values, vectors = torch.linalg.eigh(moment)
        scale = (values.clamp_min(0) + ridge).rsqrt() if ridge > 0 else torch.zeros_like(values)
        roots.append((vectors * scale) @ vectors.T)

    def linear(rows: Tensor) -> Tensor:
        parts = [rows[:, g] @ root.to(rows) for g, root in zip(groups, roots, strict=True)]
        return torch.cat(parts, 1)

    return linear


def _scaling(
    run: CheckpointRun, checkpoint: int, moment: Literal["adam", "gradients"], eps: float | None
) -> Transform:
    """Divides gradients by sqrt(V) + eps."""
    moments = _moments(run, checkpoint, moment)
    roots = {name: v.sqrt().to(run.device) for name, v in moments.items()}
    if eps is None:
        eps = typical_root(roots.values())

    def transform(block: str, gradient: Tensor) -> Tensor:
        return gradient / (roots[block].to(gradient) + eps)

    return transform


def _moments(
    run: CheckpointRun, checkpoint: int, moment: Literal["adam", "gradients"]
) -> dict[str, Tensor]:
    if moment == "gradients":
        return squares(run, checkpoint)
    state = adam_state(run.checkpoints[checkpoint], run.model)
    return {
        name: b.arranged({n: state.second_moment(n) for n in b.parameters.values()})
        for name, b in run.coverage.blocks.items()
    }


def _adam_fingerprint(run: CheckpointRun, checkpoint: int) -> str:
    try:
        return adam_fingerprint(run.checkpoints[checkpoint], run.model)
    except MissingParameterError as error:
        raise MissingParameterError(
            f'{error} Or take TrackStar(moment="gradients"), which needs no state.'
        ) from error
