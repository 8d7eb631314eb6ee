"""`LESS`: cosines between a query's gradient and the step Adam would take on a training example."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from influence.checks import check_share
from influence.errors import InputError, MissingParameterError, NotYetSupportedError
from influence.result import Influence
from llm_influence.adam_state import AdamState, adam_fingerprint, adam_state
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.gradients import Block, Transform
from llm_influence.projection import Identity, Kronecker, Projection
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun


class LESS(ByRows):
    """Cosine of a query's gradient and Adam's step on a training example, summed over checkpoints.

        values[i, q] = sum_c eta_c cos(P g_q(theta_c), P Gamma_i(theta_c))
        Gamma_i = m' / (sqrt(v') + eps)
        m' = (b1 m + (1 - b1) g_i) / (1 - b1^t),    v' = (b2 v + (1 - b2) g_i^2) / (1 - b2^t)

    with m, v, b1, b2 and eps of the checkpoint's Adam, t the number of the step that would be
    taken, eta_c the checkpoint's rate (1 where the run has none), and P the projection.

    form="paper", the default, is as above. form="code" is what the authors' code does: m' and v'
    without the division by 1 - b^t, and Gamma_i = m' / sqrt(v' + eps). The division is a factor
    of all of Gamma_i, which the cosine drops, but for its effect on eps; where eps stands matters
    more: in the root, 1e-8 is 1e-4 added to sqrt(v). That code also fixes b1 = .9, b2 = .999,
    eps = 1e-8 and divides the rates by their sum; the paper writes t for the step before.

    Sign: positive = proponent: a step on the example goes against the query's gradient, so the
    query's loss would be higher without it. Since m is part of every Gamma_i, so is a term that
    is the same for all examples but for their lengths. Unit: "similarity".
    Cost: fit makes every training gradient at every checkpoint and transforms it, O(parameters) an
    example besides its forward and backward pass; a query costs its gradient and a pass over rows.
    Refused: checkpoints without both of Adam's moments (`MissingParameterError`); influence by
    token, since Gamma is not linear in g.

    Reference: Xia, Malladi, Gururangan, Arora, Chen, "LESS: Selecting Influential Data for Targeted
    Instruction Tuning", 2024, definition 3.1; there P is Rademacher with 8,192 rows over the
    parameters of a LoRA adapter, `Dense(8192)` here.

    Args:
        projection: What Gamma and the queries' gradients are projected by; None takes them whole.
        form: "paper" or "code", see above.
    """

    unit = "similarity"

    def __init__(
        self,
        projection: Projection | None = Kronecker(16),  # noqa: B008  frozen
        *,
        form: Literal["paper", "code"] = "paper",
    ) -> None:
        if form not in ("paper", "code"):
            raise InputError(f'form must be "paper" or "code", got {form!r}.')
        self.projection = projection
        self.form: Literal["paper", "code"] = form

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        projection = Identity() if self.projection is None else self.projection
        train_of = RowMap(
            run,
            projection,
            transforms=lambda checkpoint: adam_step(run, checkpoint, self.form),
            about={
                "step": f"adam's, form of the {self.form}",
                "adam": [adam_fingerprint(one, run.model) for one in run.checkpoints],
            },
            additive=False,
        )
        query_of = RowMap(run, projection)
        train = training_rows(train_of, store, progress)
        unit = Side(unit=True)
        rates = [one.rate for one in run.checkpoints]
        weights = [1.0 if rate is None else float(rate) for rate in rates]
        return [Step(c, train, train_of, query_of, unit, unit, w) for c, w in enumerate(weights)]


def adam_step(run: CheckpointRun, checkpoint: int, form: Literal["paper", "code"]) -> Transform:
    """From gradients of single examples to the steps Adam would take on them, but for the rate."""
    given = run.checkpoints[checkpoint]
    state = adam_state(given, run.model)
    if state.betas is None or state.eps is None:
        raise MissingParameterError(
            f"LESS needs both of Adam's moments, its betas and eps; {given.name} comes with second "
            "moments only. Give Checkpoint(weights=..., adam=...) the optimizer or its "
            "state_dict()."
        )
    eps = state.eps
    terms = {name: _terms(state, block, run.device) for name, block in run.coverage.blocks.items()}

    def transform(block: str, gradient: Tensor) -> Tensor:
        own = terms[block]
        m = own.m.to(gradient) + own.of_gradient * gradient
        v = own.v.to(gradient) + own.of_square * gradient.square()
        if form == "code":
            return m / (v + eps).sqrt()
        return m / own.correction1 / ((v / own.correction2).sqrt() + eps)

    return transform


@dataclass(frozen=True, eq=False)
class _Terms:
    """Of Adam's next step on one block, what does not depend on the gradient.

    m' = m + of_gradient * g and v' = v + of_square * g^2, with the decayed moments m and v.
    """

    m: Tensor
    v: Tensor
    of_gradient: float
    of_square: float
    correction1: float
    correction2: float


def _terms(state: AdamState, block: Block, device: torch.device) -> _Terms:
    names = list(block.parameters.values())
    for name in names:
        state.second_moment(name)  # names what is missing
    taken = {state.step[name] for name in names}
    if state.betas is None or len(taken) != 1:
        raise NotYetSupportedError(
            f"Expected {names} to have taken the same number of Adam's steps, got {taken}."
        )
    beta1, beta2 = state.betas
    t = taken.pop() + 1
    m = block.arranged({name: state.exp_avg[name] for name in names})
    v = block.arranged({name: state.exp_avg_sq[name] for name in names})
    return _Terms(
        beta1 * m.to(device), beta2 * v.to(device), 1 - beta1, 1 - beta2,
        1 - beta1**t, 1 - beta2**t,
    )  # fmt: skip


def select(
    influence: Influence, share: float, subtasks: ArrayLike | None = None
) -> NDArray[np.int64]:
    """The training examples to train on for a target, best first.

    An example counts by its best subtask: the largest, over subtasks, of its mean influence on a
    subtask's queries.

    Args:
        influence: Of the training examples on validation queries of the target.
        share: Share of the training examples taken, between 0 and 1.
        subtasks: Label of each query's subtask, shape (n_queries,); None takes all for one.

    Returns:
        Positions of training examples.

    Reference: Xia et al., 2024, section 4.2.
    """
    check_share("share", share)
    values = influence.values
    labels = np.zeros(values.shape[1], dtype=int) if subtasks is None else np.asarray(subtasks)
    if labels.shape != (values.shape[1],):
        raise InputError(
            f"Expected a subtask for each of {values.shape[1]} queries, got labels of shape "
            f"{labels.shape}."
        )
    means = [values[:, labels == label].mean(axis=1) for label in np.unique(labels)]
    order = np.argsort(-np.max(means, axis=0), kind="stable")
    return order[: max(1, round(share * len(order)))]
