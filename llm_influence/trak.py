"""`TRAK`: one Newton step of a linear model in the projected gradients of the log-odds."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from influence.checks import check_positive
from influence.errors import UnsupportedModelError
from influence.run import name_of
from llm_influence import losses
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.gradients import Loss
from llm_influence.projection import Identity, Kronecker, Projection
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun
from llm_influence.whitening import whitener


@dataclass(frozen=True, repr=False)
class Margin:
    """What TRAK takes for the output of a model.

    Args:
        output: From (model, batch) to the output f of each example, shape (n_examples,), turned
            so that low is good: log((1 - p) / p).
        slope: From (model, batch) to d loss / d f of each example, shape (n_examples,): 1 - p.
    """

    output: Loss
    slope: Loss

    def __repr__(self) -> str:
        return f"Margin({name_of(self.output)}, {name_of(self.slope)})"


MARGINS: Mapping[Callable[..., Tensor], Margin] = {
    losses.causal_lm: Margin(losses.causal_lm_odds, losses.causal_lm_doubt),
    losses.classification: Margin(losses.classification_odds, losses.classification_doubt),
}


class TRAK(ByRows):
    """Influence in a linear model of the log-odds, averaged over models.

        values[i, q] = mean_c(1 - p_i(theta_c))
                       mean_c(phi_q (Phi^T Phi + lambda I)^-1 phi_i),    phi = P grad f(theta_c)

    with f = log((1 - p) / p), P the projection, Phi the rows of the training examples, and
    lambda = damping * mean_i |phi_i|^2. The models c are the checkpoints of the run: for the
    ensembles of the paper, models trained on their own, each on a random part of the examples,
    given to `trace` as checkpoints. Of a text, f and 1 - p are means over its target tokens.

    Sign: positive = proponent. In the linear model the loss of i is log(1 + exp f_i) with gradient
    (1 - p_i) phi_i. Leaving i out moves the weights by +H^-1 (1 - p_i) phi_i, and the query's f,
    the log-odds against it, by phi_q times that: it rises where the value is positive. The paper's
    f is the log-odds in favour; turned around on both sides, no product changes, and a loss of
    your own (`trace`) keeps the sign.
    Unit: "loss, up to scale": R = diag(p (1 - p)) and the leverages are left out, as in the paper.
    Cost: fit is a forward and backward pass and a forward pass over the training examples for
    each model, and a factorisation (`llm_influence.whitening`); a query costs its gradient and a
    pass over the rows for each model.
    Wrong for few examples: the paper takes lambda = 0 and needs many more examples than columns,
    without which Phi^T Phi is singular. So damping must be above 0 here; a small one comes close
    to the paper where rows are many.
    Refused for losses whose output is not known (`UnsupportedModelError`): pass output=.

    Reference: Park, Georgiev, Ilyas, Leclerc, Madry, "TRAK: Attributing Model Behavior at Scale",
    2023, equations 12 to 17. Its code leaves lambda = 0 and keeps the features in half precision;
    it takes one label an example, so the mean over tokens is ours.

    Args:
        projection: What gradients are projected by; None takes them whole.
        damping: lambda in units of the mean squared length of the rows, above 0; for the paper's
            undamped matrix take a small one, e.g. 1e-6.
        output: The model's output; None takes that of the run's loss.
    """

    unit = "loss, up to scale"

    def __init__(
        self,
        projection: Projection | None = Kronecker(16),  # noqa: B008  frozen
        damping: float = 1.0,
        *,
        output: Margin | None = None,
    ) -> None:
        check_positive("damping", damping)
        self.projection = projection
        self.damping = damping
        self.output = output

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        margin = _margin(run) if self.output is None else self.output
        projection = Identity() if self.projection is None else self.projection
        rows_of = RowMap(run, projection, output=margin.output)
        train = training_rows(rows_of, store, progress)
        n_models = len(run.checkpoints)
        slope = np.mean([_slopes(run, margin, c) for c in range(n_models)], axis=0)
        weight = torch.from_numpy(slope / (n_models * run.n_train)).to(run.device)
        steps = []
        for c in range(n_models):
            # (Phi^T Phi / n + damping * mean |phi|^2 / n)^-1
            linear = whitener(train, c, run.n_train, rows_of.width, Side(), float(self.damping))
            steps.append(Step(c, train, rows_of, rows_of, Side(), Side(linear), weight))
        return steps


def _margin(run: CheckpointRun) -> Margin:
    if run.loss not in MARGINS:
        known = ", ".join(name_of(loss) for loss in MARGINS)
        raise UnsupportedModelError(
            f"Expected a loss whose model output is known to TRAK ({known}), got "
            f"{name_of(run.loss)}; pass TRAK(output=Margin(output, slope))."
        )
    return MARGINS[run.loss]


def _slopes(run: CheckpointRun, margin: Margin, checkpoint: int) -> NDArray[np.float64]:
    """d loss / d f of every training example at a checkpoint, shape (n_train,)."""
    with run.at(checkpoint) as model:
        return replace(run, loss=margin.slope).losses_of(model, run.examples)
