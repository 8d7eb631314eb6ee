"""`TreeSim`: rows that fall where the query falls, for or against it by their labels."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from influence.base import Attributor, Relabels
from influence.change import Relabelled
from tree_influence.of_trees import OfTrees
from tree_influence.run import TreeQueries, TreeRun
from tree_influence.signs import sides
from tree_influence.similarity import Kernel, TreeKernel, check_kernel

Floats = NDArray[np.float64]


class TreeSim(OfTrees, Attributor[TreeRun, TreeQueries], Relabels):
    """Similarity in the trees, signed by whether the labels agree.

    values[j, q] = w_j s_jq k(j, q), with k a kernel of `tree_influence.similarity`, for example

        k(j, q) = sum_t 1[l(j) = l(q)] / n_{l(q)}^2                       ("weighted_leaf_path")

    and s_jq = 1 where row j is on the query's side, else -1: of the same class; in regression, a
    target on the same side of the query's prediction as the query's own. Other labels change s:
    predict(Relabelled) is sum_j w_j (s_jq - s'_jq) k(j, q).

    Sign: positive = proponent. Unit: similarity, which ranks rows and predicts no loss.
    Cost: fit O(T n); explain T n additions a query; self_influence O(T n).
    Answers every model that can be traced, those without a leaf formula too (forests, DART,
    quantile losses, objectives of one's own, rankers): it needs leaves and targets only.
    Wrong in that nothing of the training enters but where rows fell.

    Args:
        kernel: "weighted_leaf_path", "leaf_path", "leaf_output", "tree_output", "feature_path" or
            "weighted_feature_path".

    Reference: Brophy, Hammoudeh, Lowd, "Adapting and Evaluating Influence-Estimation Methods for
    Gradient-Boosted Decision Trees", JMLR 2023.
    """

    unit = "similarity"
    kernel_: TreeKernel

    def __init__(self, kernel: Kernel = "weighted_leaf_path") -> None:
        check_kernel(kernel)
        self.kernel: Kernel = kernel

    def _fit(self, run: TreeRun) -> None:
        self.kernel_ = TreeKernel.of(run, self.kernel)

    def _add_columns(self, queries: TreeQueries, out: Floats) -> None:
        signed = sides(self.run_, queries, slice(0, self.run_.n_train))
        out += self.run_.weight[:, None] * signed * self.kernel_.columns(queries.leaves)

    def _diagonal(self, train: TreeQueries, rows: slice) -> Floats:
        return self.run_.weight[rows] * self.kernel_.own(train.leaves)  # on their own side

    def _relabelled(self, change: Relabelled, queries: TreeQueries) -> Floats:
        run, rows = self.run_, change.rows
        changed = replace(run, target=run.relabelled(change))
        moved = sides(run, queries, rows) - sides(changed, queries, rows)
        return run.weight[rows] @ (moved * self.kernel_.columns(queries.leaves)[rows])

    def _bytes_per_value(self) -> int:
        return 8 * 3 + self.kernel_.bytes_per_value()
