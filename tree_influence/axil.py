"""`AXIL`: predictions as weighted sums of the training targets, and what other targets would do."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from influence import engine
from influence.base import Estimator, Relabels
from influence.change import Change, Relabelled
from influence.errors import UnsupportedChangeError, UnsupportedModelError
from influence.run import blocks
from tree_influence.labels import NewLabels, label_terms
from tree_influence.losses import Logistic, Loss, OneVsAll, Softmax, SquaredError, TrainingLoss
from tree_influence.losses_positive import Gamma, Poisson, Tweedie
from tree_influence.losses_wrapped import OnSeenTarget, SeveralTargets, UnitHessian
from tree_influence.of_trees import OfTrees
from tree_influence.reading import read_rows
from tree_influence.replay import Replay, RowTerms
from tree_influence.rows import indexable
from tree_influence.run import UNEXPLAINED, TreeQueries, TreeRun
from tree_influence.sweep import sweep

Floats = NDArray[np.float64]

OF_NUMBERS = (SquaredError, Logistic, Poisson, Gamma, Tweedie)
LINEAR = (*OF_NUMBERS, OneVsAll, Softmax)  # direct is linear in the target, or in its one-hot code
SAME = 1e-5  # a start this near the mean of the targets is that, in float32


class AXIL(OfTrees, Estimator[TreeRun], Relabels):
    """Weights of the training targets in each prediction; structures are held fixed.

    u is the adjoint of each leaf's value and a that of each row's score, of a query's raw score F
    (c = 1 in the sweep of `LeafInfluence`); over all rounds

        W_jq = w_j sum_t u_{l(j)} eta / (H + lambda)  +  (1 + sum_i a_i) w_j / sum w

    The second part is the share of the start, where that is the mean of the targets. With squared
    error F_q = sum_j W_jq y_j exactly, and the weights of a prediction add up to 1. From a start b
    that does not depend on the targets (XGBoost's base_score if it was given, starting scores),
    there is no second part, and F_q - b = sum_j W_jq (y_j - b). With l1 the sum lacks a constant.

    With another loss whose gradient is linear in the target (logistic, Poisson, gamma, Tweedie),
    W_jq = dF_q / dy_j at the fitted targets, the start held fixed; it is no decomposition of F.

    predict(Relabelled(rows, labels)) is, with squared error, L(F_q + dF_q) - L(F_q), where
    dF_q = sum_j W_jq (y'_j - y_j): exactly what a refit on fixed structures gives, as long as no
    leaf crosses a bound (l1, max_delta_step). With other losses, softmax included, it is dL/dF dF
    with dF to first order in weights, which is the answer of `LeafInfluence`.

    Sign: weights are positive where a larger target raises F; effects where the loss rises.
    Unit: weights of targets; effects loss.
    Cost: fit O(1), O(T n) a query and output.
    Wrong in that splits would change with the labels.
    Refused where the gradient is not linear in the target, and where the leaves are no Newton
    values or do not recompute, as with subsampling: the sums would not be the predictions
    (`UnsupportedModelError`).

    Reference: Geertsema, Lu, "Instance-based Explanations for Gradient Boosting Machine Predictions
    with AXIL Weights", 2023, arXiv 2301.01864 (squared error).
    """

    share_: Floats

    def _fit(self, run: TreeRun) -> None:
        replay = run.replay
        loss = replay.recipe.loss
        if not isinstance(_innermost(loss), LINEAR):
            raise UnsupportedModelError(
                f"Expected a loss whose gradient is linear in the target (squared error, logistic, "
                f"softmax, Poisson, gamma, Tweedie), got {loss.name}: predictions are no weighted "
                "sum of the targets. LeafInfluence and BoostIn answer Relabelled for this model."
            )
        if replay.error.largest > UNEXPLAINED:
            because = ", ".join(replay.recipe.inexact_because) or "unknown reasons"
            raise UnsupportedModelError(
                f"Expected leaves that recompute from the training rows, got leaves that differ "
                f"({replay.error}; {because}): their weights would not add up to the predictions. "
                "Train without it, or use LeafInfluence, which answers Relabelled approximately."
            )
        self.share_ = _start_share(run)

    def weights(self, X: Any) -> Floats:
        """Weight of each training target in the raw score of each query.

        With a target that LightGBM takes the root of (reg_sqrt), weights of the roots.

        Args:
            X: Query features, shape (n_queries, n_features); no truth is needed.

        Returns:
            Shape (n_train, n_queries); for several targets (n_train, n_queries, n_targets), each
            output with the weights of its own target.

        Raises:
            UnsupportedModelError: The target is one of several classes, which are no numbers.
        """
        run = self._fitted_run()
        core = _innermost(run.replay.recipe.loss)
        if not isinstance(core, OF_NUMBERS):
            raise UnsupportedModelError(
                f"Expected a target that is a number, or one of two classes, got {core.name}: a "
                "class has no weight. predict(Relabelled(rows, labels), X, y) answers for other "
                "classes."
            )
        held = run.adapter.unpack(X)
        rows = indexable(X if held is None else held.X)
        leaves, _ = read_rows(run.adapter, run.prefix, rows, None, checked=False)
        weights = self._weights(leaves)
        return weights if weights.shape[2] > 1 else weights[:, :, 0]

    def predict(self, change: Change, *queries: Any) -> Floats:
        """Effect of other labels on each query's loss, shape (n_queries,).

        Args:
            change: `Relabelled`.
            *queries: Query data as the run takes it, e.g. X_test, y_test.

        Raises:
            UnsupportedChangeError: A change of row weights or of order.
        """
        if not isinstance(change, Relabelled):
            raise UnsupportedChangeError(
                f"AXIL answers changes of labels (Relabelled), got {type(change).__name__}. "
                "LeafInfluence and BoostIn answer changes of row weights (Without, Reweighted)."
            )
        return self._relabelled(change, self._ask(*queries)[1])

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        replay, loss = self.run_.replay, self.run_.replay.recipe.loss
        raw = replay.raw_after(queries.leaves, queries.offset)
        moved = self._moved(NewLabels.of(change, self.run_), queries.leaves)
        gradient = loss.derivatives(queries.target, raw).gradient
        first_order = (gradient * moved).sum(axis=1)
        if not isinstance(_innermost(loss), SquaredError):
            return first_order
        return first_order + 0.5 * (moved**2).sum(axis=1)

    def _weights(self, leaves: NDArray[np.integer]) -> Floats:
        """Weights of queries in these leaves, shape (n_train, n_queries, n_outputs)."""
        replay = self.run_.replay
        weights = np.empty((replay.raw.shape[1], leaves.shape[1], len(replay.weight))).T
        for block, k, values, by_start in self._sweeps(leaves, lambda: _unit_terms(replay)):
            weights[:, block, k] = values + self.share_[:, None] * by_start
        return weights

    def _moved(self, new: NewLabels, leaves: NDArray[np.integer]) -> Floats:
        """Change of each query's raw score, shape (n_queries, n_outputs)."""
        replay = self.run_.replay
        moved = np.zeros((leaves.shape[1], replay.raw.shape[1]))
        if len(new.rows) == 0:
            return moved
        at, loss = np.tile(replay.recipe.start, (len(new.rows), 1)), replay.recipe.loss
        before, after = (
            loss.derivatives(target, at).gradient
            for target in (replay.target[new.rows], new.target)
        )
        start = self.share_[new.rows] @ (before - after)  # (n_outputs,)
        for block, k, values, by_start in self._sweeps(leaves, lambda: label_terms(replay, new)):
            moved[block, k] = values[new.rows].sum(axis=0) + start[k] * by_start
        return moved

    def _sweeps(
        self, leaves: NDArray[np.integer], terms: Callable[[], Iterator[RowTerms]]
    ) -> Iterator[tuple[slice, int, Floats, Floats]]:
        """One sweep for every output of blocks of queries.

        Yields:
            The block; the output; values of all rows, shape (n_train, size of the block); the
            derivative of the queries' scores by the start, shape (size of the block,).
        """
        replay = self.run_.replay
        n_train, n_outputs = replay.raw.shape
        size = engine.columns_per_block(n_train, 8 * (2 + n_outputs))
        for block in blocks(leaves.shape[1], size):
            for k in range(n_outputs):
                pull = np.zeros((block.stop - block.start, n_outputs))
                pull[:, k] = 1.0
                values = np.zeros((len(pull), n_train)).T
                left = sweep(replay, terms(), leaves[:, block], pull, values)
                yield block, k, values, 1.0 + left[:, k]


def _unit_terms(replay: Replay) -> Iterator[RowTerms]:
    """Row terms with minus the derivative by the target, as training sees it, for `direct`.

    Where `direct` is linear in the target, that is the difference of any two targets one apart.
    """
    recipe = replace(replay.recipe, loss=_of_seen(replay.recipe.loss))
    zero, one = (
        replace(replay, recipe=recipe, target=fill(replay.target))
        for fill in (np.zeros_like, np.ones_like)
    )
    for terms, at_zero, at_one in zip(
        replay.backwards(), zero.backwards(), one.backwards(), strict=True
    ):
        yield replace(terms, direct=at_zero.direct - at_one.direct)


def _start_share(run: TreeRun) -> Floats:
    """Weight of each target in the start, shape (n_train,); zeros where it is no mean of them."""
    recipe, weight = run.replay.recipe, run.weight
    none, share = np.zeros(run.n_train), weight / weight.sum()
    squared = isinstance(_innermost(recipe.loss), SquaredError)
    if not squared or not run.adapter.starts_at_average or run.given_offset is not None:
        return none
    gap = recipe.loss.derivatives(run.target, np.tile(recipe.start, (run.n_train, 1))).gradient
    spread = np.sqrt(share @ gap**2) + np.abs(recipe.start)  # (n_outputs,)
    return share if (np.abs(share @ gap) <= SAME * spread).all() else none


def _of_seen(loss: TrainingLoss) -> TrainingLoss:
    """The same loss, of what training sees of the target."""
    if isinstance(loss, UnitHessian):
        return UnitHessian(_of_seen(loss.loss))
    return loss.loss if isinstance(loss, OnSeenTarget) else loss


def _innermost(loss: Loss) -> Loss:
    while isinstance(loss, OnSeenTarget | SeveralTargets | UnitHessian):
        loss = loss.loss
    return loss
