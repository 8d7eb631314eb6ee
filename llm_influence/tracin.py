"""`TracIn`: inner products of gradients, over checkpoints, in a metric of your choice."""

import os
from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from influence.checks import check_positive
from influence.errors import InputError
from llm_influence.adam_state import adam_fingerprint, adam_state, typical_root
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.gradients import Transform
from llm_influence.learned import PCA, projected_by
from llm_influence.projection import Identity, Kronecker, Projection
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun
from llm_influence.whitening import whitener


class TracIn(ByRows):
    """How much a step on a training example would lower the query's loss, summed over checkpoints.

        values[i, q] = sum_c eta_c <g_q(theta_c), M_c g_i(theta_c)>

    with g the gradient of one example's loss, eta_c the checkpoint's rate, and M_c the metric: the
    identity, Adam's 1 / (sqrt(v) + eps), and with `whiten` the inverse second moment of the
    training gradients in it, (G^T G / n + damping * mean_i |g_i|^2 / n)^-1.

    GradDot is one checkpoint (a run traced without any), GradCos is that with normalise="unit".

    Sign: positive = proponent. Unit: "loss" where the run has rates (learning rate x visits /
    batch size) and the metric is the identity, the change of loss that plain gradient descent would
    have made; "similarity" with normalise="unit"; else "loss, up to scale".
    Cost: fit is about one ordinary forward and backward pass over the training examples per
    checkpoint with a Kronecker projection and the identity metric; Adam's metric scales gradients
    before they are projected, which makes them: O(n_out n_in) more a token. Whitening adds a
    factorisation, see `llm_influence.whitening`. A query costs its gradient and one pass over the
    rows.

    Reference: Pruthi et al., "Estimating Training Data Influence by Tracing Gradient Descent",
    2020, equation 1 (there with the opposite reading of the sign of an effect); the metric and
    the whitening are ours.

    Args:
        projection: What gradients are projected by: `Kronecker`, `PCA` or `Dense`; None takes
            whole gradients, which are worked out again for every block of queries where they do
            not fit into memory.
        normalise: "unit" divides rows by their length, so that long gradients do not rank high
            everywhere.
        metric: "identity", or "adam" with the checkpoint's own second moments v.
        whiten: Damping of the whitening, None for none; 1 is a good choice.
        eps: Added to sqrt(v) in Adam's metric; None takes the median of sqrt(v) where v > 0, which
            keeps parameters that hardly moved from ruling the product.
    """

    def __init__(
        self,
        projection: Projection | PCA | None = Kronecker(16),  # noqa: B008  frozen
        normalise: Literal["unit"] | None = None,
        metric: Literal["identity", "adam"] = "identity",
        whiten: float | None = None,
        *,
        eps: float | None = None,
    ) -> None:
        if normalise not in (None, "unit"):
            raise InputError(f'normalise must be None or "unit", got {normalise!r}.')
        if metric not in ("identity", "adam"):
            raise InputError(f'metric must be "identity" or "adam", got {metric!r}.')
        for name, value in (("whiten", whiten), ("eps", eps)):
            if value is not None:
                check_positive(name, value)
        self.projection = projection
        self.normalise = normalise
        self.metric = metric
        self.whiten = whiten
        self.eps = eps

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        rates = [checkpoint.rate for checkpoint in run.checkpoints]
        rated = all(rate is not None for rate in rates)
        self.unit = self._unit(rated)
        rows_of = projected_by(self._row_map(run), self.projection or Identity(), store)
        train = training_rows(rows_of, store, progress)
        side = Side(unit=self.normalise == "unit")
        steps = []
        for c, rate in enumerate(rates):
            query_side = side
            if self.whiten is not None:
                linear = whitener(train, c, run.n_train, rows_of.width, side, float(self.whiten))
                query_side = Side(lambda rows, linear=linear: linear(side(rows)))
            weight = 1.0 if rate is None else float(rate)
            steps.append(Step(c, train, rows_of, rows_of, side, query_side, weight))
        return steps

    def _unit(self, rated: bool) -> str:
        if self.normalise == "unit":
            return "similarity"
        plain = self.metric == "identity" and self.whiten is None
        return "loss" if rated and plain else "loss, up to scale"

    def _row_map(self, run: CheckpointRun) -> RowMap:
        if self.metric == "identity":
            return RowMap(run, Identity())
        return RowMap(
            run,
            Identity(),
            transforms=lambda checkpoint: adam_root(run, checkpoint, self.eps),
            about={
                "scale": "adam's metric, square root",
                "eps": self.eps,
                "adam": [adam_fingerprint(one, run.model) for one in run.checkpoints],
            },
        )


def adam_root(run: CheckpointRun, checkpoint: int, eps: float | None) -> Transform:
    """Multiplies gradients by (sqrt(v) + eps)^-1/2, so that products are in Adam's metric."""
    scales = adam_scales(run, checkpoint, eps)

    def transform(block: str, gradient: Tensor) -> Tensor:
        return gradient * scales[block].sqrt().to(gradient)

    return transform


def adam_scales(run: CheckpointRun, checkpoint: int, eps: float | None) -> dict[str, Tensor]:
    """1 / (sqrt(v) + eps) by block, with v the bias-corrected second moment of a checkpoint."""
    state = adam_state(run.checkpoints[checkpoint], run.model)
    roots = {
        name: block.arranged({n: state.second_moment(n) for n in block.parameters.values()}).sqrt()
        for name, block in run.coverage.blocks.items()
    }
    if eps is None:
        eps = typical_root(roots.values())
    return {name: 1 / (root + eps) for name, root in roots.items()}
