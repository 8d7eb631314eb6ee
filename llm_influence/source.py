"""`SOURCE`: unrolled training in a few segments of stationary curvature."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from influence.checks import check_positive, check_whole
from influence.errors import InputError, MissingParameterError
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.curvature import Curvature, Fisher, damped, kronecker_curvature
from llm_influence.outputs import Labels
from llm_influence.projection import Identity
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun


class SOURCE(ByRows):
    """What leaving out a training example would have done along the whole of training.

        values[i, q] = (1 / n) g_q^T sum_l S_L ... S_{l+1} F_l g_il
        S_l = exp(-tau_l H_l),    F_l = (I - exp(-tau_l H_l)) H_l^-1,    tau_l = n * rate_l

    The checkpoints are cut into L segments, in the order given. g_il is the example's gradient and
    H_l the curvature (EK-FAC) of segment l, both means over its checkpoints; g_q is the query's
    gradient at the last checkpoint. rate_l is the sum of the segment's rates: learning rate x
    visits of an example / batch size. K steps of rate eta on batches of B visit an example K B / n
    times, so rate_l = eta K / n, and tau_l is the paper's eta_l K_l: the time for which gradient
    descent flows down the mean loss. Where no curvature is, F_l = tau_l I: `TracIn`. Where all of
    it has decayed, tau_l H_l >> 1, F_l = H_l^-1 and S_l = 0: influence functions.

    Sign: positive = proponent. Unit: "loss".
    Cost: for each checkpoint the two passes of `EKFAC` and all training gradients; a query costs
    its gradient, L maps of O(n_out^2 n_in + n_out n_in^2) a layer and a pass over the rows for
    each checkpoint.
    Wrong for what is no plain gradient descent: with momentum b multiply the rates by 1 / (1 - b);
    Adam needs its own metric, which this has not. Refused without rates.

    Reference: Bae et al., "Training Data Attribution via Approximate Unrolled Differentiation",
    2024, section 3. There embeddings and norms are left out, here they are not.

    Args:
        segments: Number of segments L, at most one for each checkpoint.
        damping: Added to eigenvalues, as a multiple of their mean in the block: for weight decay.
            None is needed, since F_l is bounded.
        labels: As of `EKFAC`.
        seed: Seed of the draws of labels.

    Raises:
        MissingParameterError: (by fit) The run has no rates.
        InputError: (by fit) Fewer checkpoints than segments.
    """

    def __init__(
        self,
        segments: int = 3,
        damping: float = 0.0,
        labels: Labels = "sampled",
        seed: int = 0,
    ) -> None:
        check_whole("segments", segments, least=1)
        check_positive("damping", damping, zero=True)
        check_whole("seed", seed)
        self.segments = segments
        self.damping = damping
        self.labels: Labels = labels
        self.seed = seed

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        rates = _rates(run, self.segments)
        rows_of = RowMap(run, Identity())
        n_checkpoints = len(run.checkpoints)
        query_of = RowMap(
            replace(run, checkpoints=run.checkpoints[-1:] * n_checkpoints), rows_of.projection
        )
        later: list[Segment] = []
        found: list[tuple[list[int], Side]] = []
        for part in reversed(np.array_split(np.arange(n_checkpoints), self.segments)):
            own = [int(c) for c in part]
            fisher = Fisher(run, own, self.labels, self.seed, progress)
            curvature = kronecker_curvature(fisher, rows_of.bound.segments, corrected=True)
            segment = Segment(curvature, run.n_train * sum(rates[c] for c in own), self.damping)
            found.append((own, Side(_Chain(segment, tuple(later)))))
            later.append(segment)
        train = training_rows(rows_of, store, progress)
        return [
            Step(c, train, rows_of, query_of, query_side=side, weight=1 / (run.n_train * len(own)))
            for own, side in reversed(found)
            for c in own
        ]


@dataclass(frozen=True, eq=False)
class Segment:
    """A part of training of stationary curvature.

    Attributes:
        curvature: Its curvature H.
        tau: Sum of the learning rates of its steps.
        damping: Added to eigenvalues, as a multiple of their mean in the block.
    """

    curvature: Curvature
    tau: float
    damping: float

    def kept(self, rows: Tensor) -> Tensor:
        """S: what is left at the segment's end of a displacement at its start."""
        raised = damped(self.damping)
        return self.curvature.mapped(rows, lambda v: torch.exp(-self.tau * raised(v)))

    def gathered(self, rows: Tensor) -> Tensor:
        """F: the displacement at its end, of a constant push through it."""
        return self.curvature.mapped(rows, self._gathered)

    def _gathered(self, values: Tensor) -> Tensor:
        raised = damped(self.damping)(values)
        decay = self.tau * raised
        return torch.where(decay > 1e-12, -torch.expm1(-decay) / raised.clamp_min(1e-300), self.tau)


@dataclass(frozen=True, eq=False)
class _Chain:
    """From query rows to F_l S_{l+1} ... S_L applied to them; `later` begins with segment L."""

    own: Segment
    later: Sequence[Segment]

    def __call__(self, rows: Tensor) -> Tensor:
        for segment in self.later:
            rows = segment.kept(rows)
        return self.own.gathered(rows)


def _rates(run: CheckpointRun, n_segments: int) -> list[float]:
    rates = [checkpoint.rate for checkpoint in run.checkpoints]
    known = [float(rate) for rate in rates if rate is not None]
    if len(known) < len(rates):
        raise MissingParameterError(
            "SOURCE needs the rate of every checkpoint (learning rate x visits / batch size over "
            "the steps that led to it), got none; give rates=[...] to trace, or use EKFAC."
        )
    if n_segments > len(rates):
        raise InputError(
            f"Expected at least one checkpoint for each of the {n_segments} segments, got "
            f"{len(rates)}; lower segments or trace more checkpoints."
        )
    return known
