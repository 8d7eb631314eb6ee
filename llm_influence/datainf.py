"""`DataInf`: influence functions whose inverse Hessian is a mean of closed-form inverses."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from influence.checks import check_positive
from influence.errors import InputError
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.projection import Bound, Identity, Kronecker
from llm_influence.rows import RowMap, TrainRows, training_rows
from llm_influence.run import CheckpointRun


class DataInf(ByRows):
    """Influence functions, with the inverse of the mean Hessian replaced by a mean of inverses.

        values[i, q] = 1/n sum_l g_ql^T B_l g_il
        B_l = 1/n sum_k (g_kl g_kl^T + lambda_l I)^-1
            = 1/(n lambda_l) sum_k (I - g_kl g_kl^T / (lambda_l + |g_kl|^2))
        lambda_l = damping * mean_k |g_kl|^2 / d_l

    with g_il the gradient of example i's loss by block l (a layer's weight and bias) of d_l
    parameters, at the run's last checkpoint. With a projection, P g stands for g and d_l stays the
    number of parameters, so that values estimate the unprojected ones.

    Sign: positive = proponent. Unit: "loss, up to scale". With the inverse of the mean in place of
    B_l this is the change of loss of a model at a minimum of its mean loss; the mean of inverses is
    about 1 / damping times as large, because each is 1 / lambda_l in all directions but one. (Of a
    converged softmax regression, values are 10 to 20 times the real effects at damping 0.1.)
    Cost: fit makes the rows and passes over them once. A block of queries costs the queries'
    gradients and two passes over the rows, O(n width) a query; without a projection, gradients
    that do not fit into memory are worked out again in each pass.
    Wrong where d_l is large: B_l is then nearly I / lambda_l, and values are inner products with a
    weight for each block. The second moment of the training gradients stands for the Hessian, which
    it is near for a good fit of a negative log likelihood.
    Refused: other projections than these, such as `Dense`, which mixes blocks.

    Reference: Kwon, Wu, Wu, Zou, "DataInf: Efficiently Estimating Data Influence in LoRA-tuned LLMs
    and Diffusion Models", ICLR 2024, equation 5 and section 3; lambda_l as in their experiments.
    Their code leaves out the first 1/n, has the opposite sign for the mean of a set of queries and
    ours for single ones, and takes weight and bias for two blocks.

    Args:
        damping: lambda_l over the mean squared gradient entry of the block; the paper's is 0.1.
        projection: What gradients are projected by; None takes whole gradients, which are few
            where adapters (LoRA) are trained.
    """

    unit = "loss, up to scale"

    def __init__(self, damping: float = 0.1, projection: Kronecker | None = None) -> None:
        check_positive("damping", damping)
        if not isinstance(projection, Kronecker | None):
            raise InputError(
                "DataInf works block by block: projection must be Kronecker(p), which keeps blocks "
                f"apart, or None, got {projection!r}."
            )
        self.damping = damping
        self.projection = projection

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        last = replace(run, checkpoints=run.checkpoints[-1:])
        rows_of = RowMap(last, Identity() if self.projection is None else self.projection)
        train = training_rows(rows_of, store, progress)
        inverse = mean_inverse(train, rows_of.bound, run.n_train, float(self.damping))
        side = Side(lambda query: inverse(query) / run.n_train)
        return [Step(0, train, rows_of, rows_of, query_side=side)]


def mean_inverse(
    rows: TrainRows, bound: Bound, n_train: int, damping: float
) -> Callable[[Tensor], Tensor]:
    """From query rows to B times them, block by block; a block without any gradient gives 0.

    Args:
        rows: Training rows at one checkpoint.
        bound: What made them; gives the columns of each block.
        n_train: Number of training rows.
        damping: lambda over the mean squared gradient entry of a block.
    """
    columns = {name: segment.columns for name, segment in bound.segments.items()}
    ridge = dict.fromkeys(columns, 0.0)
    for _, values in rows.blocks(0):
        for name, own in columns.items():
            ridge[name] += float(values[:, own].double().square().sum())
    for name, segment in bound.segments.items():
        ridge[name] *= damping / (n_train * math.prod(segment.shape))

    def apply(query: Tensor) -> Tensor:
        inside = torch.zeros_like(query)
        for _, values in rows.blocks(0):
            train = values.to(query)
            for name, own in columns.items():
                lengths = train[:, own].square().sum(1) + (ridge[name] or 1.0)
                inside[:, own] += (query[:, own] @ train[:, own].T / lengths) @ train[:, own]
        result = torch.zeros_like(query)
        for name, own in columns.items():
            if ridge[name] > 0:
                result[:, own] = (query[:, own] - inside[:, own] / n_train) / ridge[name]
        return result

    return apply
