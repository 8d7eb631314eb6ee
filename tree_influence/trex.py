"""`TREX`: a kernel machine on the trees, whose prediction is a sum over the training rows."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor, Relabels
from influence.change import Relabelled
from influence.errors import InputError, UnsupportedModelError
from tree_influence.losses import LogProbability, Softmax, TrainingLoss
from tree_influence.of_trees import OfTrees
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.similarity import Kernel, TreeKernel, check_kernel
from tree_influence.surrogate import Problem, Solution, matched, solve, zero

Floats = NDArray[np.float64]

SAME = 1e-12  # scores that differ by less, over the largest one, are the same
LEAST_PROBABILITY = 1e-3  # a forest's probabilities below count as this where logarithms are taken


class TREX(OfTrees, Attributor[TreeRun, TreeQueries], Relabels):
    """Influence in a surrogate of the ensemble: a representer model on a kernel of its trees.

    With the kernel's features Phi and the model's mean score F_0,

        W = argmin (1 / sum w) sum_j w_j L(y_j, F_0 + (Phi W)_j) + lambda |W|^2
        F_q = F_0 + sum_j alpha_j k(j, q),    alpha_j = -w_j dL_j/dF / (2 lambda sum w)
        values[j, q] = L_q(F_q - alpha_j k(j, q)) - L_q(F_q)

    lambda is the one whose scores match the model's best. `fidelity_`, stated in every result, is
    the share of the variance of the model's raw scores that the surrogate's explain on the training
    rows; below `min_fidelity` the model is refused. predict(Relabelled) takes the rows' shares at
    their new labels, all together: L_q(F_q + sum_j (alpha'_j - alpha_j) k(j, q)) - L_q(F_q).

    Sign: positive = proponent. Unit: loss, of the surrogate.
    Cost: fit some hundred products of Phi with a vector, 2 T n additions each; explain T n
    additions and n losses a query; self_influence T n. Phi is never made.
    Answers every model whose loss has derivatives, those without a leaf formula too: forests (of
    classes: a softmax of surrogate scores, matched to the logarithms of their probabilities), DART.
    Wrong in that it explains the surrogate; the kernel, and with it what the rows did to the trees,
    stays as it is.

    Args:
        kernel: "weighted_leaf_path", "leaf_path", "leaf_output", "tree_output", "feature_path" or
            "weighted_feature_path"; see `tree_influence.similarity`.
        target: What the surrogate is fitted to: the "actual" labels, or what the model "predicted",
            which it matches better, at the price of not seeing the labels.
        l2: lambda; None chooses it.
        min_fidelity: Fidelity below which `fit` refuses.

    Reference: Brophy, Hammoudeh, Lowd, "Adapting and Evaluating Influence-Estimation Methods for
    Gradient-Boosted Decision Trees", JMLR 2023 (TREX; after Yeh et al., "Representer Point
    Selection for Explaining Deep Neural Networks", NeurIPS 2018).
    """

    problem_: Problem
    solution_: Solution
    fidelity_: float

    def __init__(
        self,
        kernel: Kernel = "weighted_leaf_path",
        target: Literal["actual", "predicted"] = "actual",
        l2: float | None = None,
        min_fidelity: float = 0.5,
    ) -> None:
        check_kernel(kernel)
        if target not in ("actual", "predicted"):
            raise InputError(f'target must be "actual" or "predicted", got {target!r}.')
        if l2 is not None and not (isinstance(l2, int | float | np.number) and 0 < l2 < np.inf):
            raise InputError(f"l2 must be a positive number, or None to choose it; got {l2!r}.")
        if not isinstance(min_fidelity, int | float | np.number):
            raise InputError(f"min_fidelity must be a number up to 1, got {min_fidelity!r}.")
        self.kernel: Kernel = kernel
        self.target, self.l2, self.min_fidelity = target, l2, min_fidelity

    def _fit(self, run: TreeRun) -> None:
        loss = _smooth_loss(run)
        scores = _model_scores(run, run.train_queries())
        if np.ptp(scores[run.weight > 0], axis=0).max() <= SAME * np.abs(scores).max():
            raise UnsupportedModelError(
                "Expected a model whose scores differ from row to row, but all training rows have "
                "the same: there is nothing to match. LeafInfluence and TreeSim answer."
            )
        kept = loss.derivatives(run.target, scores).gradient if self.target == "predicted" else 0.0
        weight = run.weight / run.weight.sum()
        kernel = TreeKernel.of(run, self.kernel)
        self.problem_ = Problem(kernel, loss, run.target, weight, scores, kept)
        if self.l2 is None:
            self.solution_ = matched(self.problem_)
        else:
            self.solution_ = solve(self.problem_, zero(self.problem_, self.l2))
        self.fidelity_ = self.problem_.fidelity(self.solution_.scores)
        if self.fidelity_ < self.min_fidelity:
            raise UnsupportedModelError(
                f"Expected a surrogate that explains at least {self.min_fidelity:.0%} of the "
                f"variance of the model's scores, but {self!r} explains {self.fidelity_:.1%}. Try "
                "another kernel, target='predicted', or l2=None; or use LeafInfluence, TreeSim or "
                "retraining. min_fidelity lowers the bar."
            )
        self._shares = self.solution_.shares(self.problem_)
        self.findings_ = {"surrogate_fidelity": self.fidelity_, "surrogate_l2": self.solution_.l2}

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        loss, raw = self.problem_.loss, self.scores(queries)
        before = loss.value(queries.target, raw)
        k = self.problem_.kernel.columns(queries.leaves)
        for q in range(queries.n_queries):
            target = np.repeat(queries.target[q : q + 1], len(out), axis=0)
            without = raw[q] - self._shares * k[:, q, None]
            out[:, q] += loss.value(target, without) - before[q]

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        loss, raw = self.problem_.loss, self.scores(train)
        own = self.problem_.kernel.own(train.leaves)[:, None]
        without = loss.value(train.target, raw - self._shares[rows] * own)
        return without - loss.value(train.target, raw)

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        problem, rows = self.problem_, change.rows
        target = self.run_.relabelled(change)
        moved = (self.solution_.shares(problem, target) - self._shares)[rows]
        raw = self.scores(queries)
        changed = raw + problem.kernel.columns(queries.leaves)[rows].T @ moved
        after, before = (problem.loss.value(queries.target, one) for one in (changed, raw))
        return after - before

    def scores(self, queries: TreeQueries) -> Floats:
        """The surrogate's raw scores of queries, shape (n_queries, n_outputs)."""
        problem = self.problem_
        return problem.start + problem.kernel.scores(self.solution_.weights, queries.leaves)

    def _bytes_per_value(self) -> int:
        return 8 + self.problem_.kernel.bytes_per_value()


def _smooth_loss(run: TreeRun) -> TrainingLoss:
    """The loss of the surrogate."""
    loss = run.adapter.loss()
    if isinstance(loss, LogProbability):
        return Softmax()
    if not isinstance(loss, TrainingLoss):
        raise UnsupportedModelError(
            f"Expected a loss with derivatives, got {loss.name}: a representer model has none to "
            "share out among the rows. TreeSim and retraining (tree_influence.retrainer) answer."
        )
    return loss


def _model_scores(run: TreeRun, queries: TreeQueries) -> Floats:
    """What the surrogate is to match, shape (n_queries, n_outputs)."""
    raw = run.adapter.ensemble.raw(queries.leaves) + queries.offset
    if isinstance(run.adapter.loss(), LogProbability):
        return np.log(np.maximum(raw, LEAST_PROBABILITY))
    return raw
