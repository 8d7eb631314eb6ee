"""`EKFAC`: influence functions with the curvature in Kronecker-factored eigenbases."""

import os
from collections.abc import Sequence
from dataclasses import replace

from influence.checks import check_positive, check_whole
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.curvature import Fisher, damped_inverse, kronecker_curvature
from llm_influence.outputs import Labels
from llm_influence.projection import Identity
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun


class EKFAC(ByRows):
    """What leaving out a training example would do to the optimum, to first order.

        values[i, q] = (1 / n) g_q^T (H + damping * m I)^-1 g_i

    with g the gradient of one example's loss at the run's last checkpoint, H the Gauss-Newton
    matrix of the mean loss over the n training examples, block by block (a layer each) in the
    eigenbasis of its Kronecker factors, and m the mean eigenvalue of the block. Which curvature
    that is, to the factor: `llm_influence.curvature`. A block without any curvature adds nothing.

    Sign: positive = proponent. Unit: "loss": the objective is the mean of the examples' losses,
    and weight decay is what damping stands for.
    Cost: fit is two passes over the training examples (one for K-FAC), measured at four to five
    ordinary forward and backward passes (K-FAC two to three), and the gradients of all training
    examples, unprojected: kept in memory or in a store where they fit, else worked out again for
    each block of queries. A query costs its gradient, O(n_out^2 n_in + n_out n_in^2) a layer, and
    one pass over the rows.
    Wrong where training was far from converged (`SOURCE` takes account of that), and between
    layers, whose curvature is taken to be 0. Equal examples draw equal labels.

    Reference: Grosse et al., "Studying Large Language Model Generalization with Influence
    Functions", 2023, section 2; George et al., "Fast Approximate Natural Gradient Descent
    in a Kronecker-factored Eigenbasis", 2018. They sum the loss over tokens and take the factors
    over all tokens that are not padding; here the loss is the run's, and tokens that no loss
    depends on are left out of both factors. Norms and embeddings, which they leave out, are here.

    Args:
        damping: Added to the eigenvalues of a block, as a multiple of their mean.
        corrected: Eigenvalues measured along the eigenvectors (EK-FAC); False: products of those
            of the factors (K-FAC).
        labels: "sampled": drawn from the model's own distribution, for the losses of
            `llm_influence.losses`. "true": the empirical Fisher matrix, which is no curvature
            where the model fits its labels badly; the one way for a loss of your own.
        seed: Seed of the draws.

    Raises:
        UnsupportedModelError: (by fit) labels="sampled" with a loss of your own.
    """

    def __init__(
        self,
        damping: float = 0.1,
        corrected: bool = True,
        labels: Labels = "sampled",
        seed: int = 0,
    ) -> None:
        check_positive("damping", damping)
        check_whole("seed", seed)
        self.damping = damping
        self.corrected = corrected
        self.labels: Labels = labels
        self.seed = seed

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        last = replace(run, checkpoints=run.checkpoints[-1:])
        rows_of = RowMap(last, Identity())
        fisher = Fisher(last, [0], self.labels, self.seed, progress)
        curvature = kronecker_curvature(fisher, rows_of.bound.segments, self.corrected)
        train = training_rows(rows_of, store, progress)
        inverse = damped_inverse(self.damping)
        side = Side(lambda rows: curvature.mapped(rows, inverse))
        return [Step(0, train, rows_of, rows_of, query_side=side, weight=1 / run.n_train)]
