"""The kernel machine that TREX puts in the place of an ensemble: ridge on the trees' features.

    W = argmin  (1 / sum w) sum_j w_j L(y_j, F_j) + lambda |W|^2,    F = F_0 + Phi W

with F_0 the model's mean score. At the optimum F_q = F_0 + sum_j alpha_j k(j, q), where
alpha_j = -w_j dL_j/dF / (2 lambda sum w): every training row's share in every score.

With the model's own predictions as targets, L loses the gradient at the model's scores M,
L - g_j(M_j) F: of a likelihood, that is the loss with the predicted mean as the target.

| index | runs over |
|---|---|
| j | training rows |
| f | features of the kernel |
| k | outputs |
"""

from dataclasses import dataclass, replace
from typing import Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from tree_influence.losses import Derivatives, SquaredError, TrainingLoss
from tree_influence.similarity import TreeKernel

Floats = NDArray[np.float64]

CLOSE = 1e-6  # gradient, over that of the penalty alone, at which W counts as solved
ROUGH = 3e-2  # and while lambda is searched for
NEWTON_STEPS = 50
CG_STEPS = 1000
GRID = 10.0 ** (-0.5 * np.arange(1, 21))  # of lambda, over its natural scale
GOOD, FAIR, GAIN = 0.99, 0.5, 0.01  # fidelities at which the search for lambda ends


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised, but for lambda.

    Attributes:
        kernel: The features.
        loss: L.
        target: y, encoded, shape (n_train,) or (n_train, n_targets).
        weight: w / sum w, shape (n_train,).
        model: M, the scores to be matched, shape (n_train, n_outputs).
        kept: What the gradient loses: g(M) with the model's predictions as targets, else 0.
    """

    kernel: TreeKernel
    loss: TrainingLoss
    target: Floats
    weight: Floats
    model: Floats
    kept: Floats | float

    @property
    def start(self) -> Floats:
        """F_0, shape (n_outputs,)."""
        return self.weight @ self.model

    def fidelity(self, scores: Floats) -> float:
        """Share of the variance of the model's scores that these explain: 1 = the same.

        Of coupled outputs (softmax) only the differences between them count.
        """
        gap, spread = scores - self.model, self.model - self.start
        if self.loss.derivatives(self.target[:1], self.model[:1]).coupling is not None:
            gap, spread = (one - one.mean(axis=1, keepdims=True) for one in (gap, spread))
        unexplained, whole = ((self.weight @ one**2).sum() for one in (gap, spread))
        return 1.0 - float(unexplained / max(whole, np.finfo(float).tiny))

    def scale(self) -> float:
        """Natural scale of lambda: the mean curvature a row has along its own features."""
        at = self.loss.derivatives(self.target, np.broadcast_to(self.start, self.model.shape))
        return float(self.weight @ (own_curvature(at).mean(axis=1) * self.kernel.own()))


@dataclass(frozen=True, eq=False)
class Solution:
    """W of one lambda.

    Attributes:
        l2: lambda.
        weights: W, shape (n_features, n_outputs).
        scores: F of the training rows, shape (n_train, n_outputs).
    """

    l2: float
    weights: Floats
    scores: Floats

    def value(self, problem: Problem) -> float:
        """The objective."""
        rows = problem.loss.value(problem.target, self.scores)
        rows = rows - (problem.kept * self.scores).sum(axis=1)
        return float(problem.weight @ rows + self.l2 * (self.weights**2).sum())

    def moved(self, weights: Floats, scores: Floats) -> Self:
        return replace(self, weights=self.weights + weights, scores=self.scores + scores)

    def shares(self, problem: Problem, target: Floats | None = None) -> Floats:
        """alpha, shape (n_train, n_outputs); with other targets if they are given."""
        target = problem.target if target is None else target
        pull = problem.loss.derivatives(target, self.scores).gradient - problem.kept
        return -problem.weight[:, None] * pull / (2 * self.l2)


def matched(problem: Problem) -> Solution:
    """The solution of the lambda whose scores match the model's best.

    From large to small lambda, each from the solution before, until the match is good, or gets
    worse, or once it is fair hardly better.
    """
    found, scale = zero(problem, np.inf), problem.scale()
    best, reached = found, -np.inf
    for l2 in (scale * GRID).tolist():
        found = solve(problem, replace(found, l2=l2), ROUGH)
        fidelity = problem.fidelity(found.scores)
        gained = fidelity - reached
        if gained > 0:
            best, reached = found, fidelity
        if gained <= 0 or reached >= GOOD or (reached >= FAIR and gained < GAIN):
            break
    return solve(problem, best)


def zero(problem: Problem, l2: float) -> Solution:
    """W = 0."""
    weights = np.zeros((problem.kernel.n_features, problem.model.shape[1]))
    return Solution(l2, weights, np.tile(problem.start, (len(problem.weight), 1)))


def solve(problem: Problem, found: Solution, close: float = CLOSE) -> Solution:
    """Newton steps, each solved by conjugate gradients.

    Args:
        problem: What is minimised.
        found: lambda, and W to begin with.
        close: Size of the gradient to stop at, over the size of its part from the data.
    """
    quadratic = isinstance(problem.loss, SquaredError)
    for _ in range(NEWTON_STEPS):
        at = problem.loss.derivatives(problem.target, found.scores)
        data = problem.kernel.sums(problem.weight[:, None] * (at.gradient - problem.kept))
        gradient = data + 2 * found.l2 * found.weights
        norm, allowed = float(np.linalg.norm(gradient)), close * float(np.linalg.norm(data))
        if norm <= allowed:
            break
        enough = max(0.5 * allowed, 0.0 if quadratic else 0.05 * norm)
        step = _newton_step(problem, found.l2, at, gradient, enough)
        found = _descended(problem, found, step)
    return found


def _newton_step(
    problem: Problem, l2: float, at: Derivatives, gradient: Floats, enough: float
) -> Floats:
    """Minus the inverse Hessian times the gradient, of shape (n_features, n_outputs).

    By conjugate gradients, scaled by the Hessian's diagonal, down to a residual of `enough`.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    kernel, weight, shape = problem.kernel, problem.weight[:, None], gradient.shape
    diagonal = (kernel.squared_sums(weight * own_curvature(at)) + 2 * l2).ravel()

    def product(flat: Floats) -> Floats:
        direction = flat.reshape(shape)
        moved = curved(at, kernel.scores(direction))
        return (kernel.sums(weight * moved) + 2 * l2 * direction).ravel()

    def scaled(flat: Floats) -> Floats:
        return flat / diagonal

    operator = cast("Any", LinearOperator)  # its stubs know no matvec
    hessian, inverse = (
        operator((gradient.size, gradient.size), matvec=apply, dtype=np.float64)
        for apply in (product, scaled)
    )
    step, _ = cg(hessian, -gradient.ravel(), rtol=0.0, atol=enough, maxiter=CG_STEPS, M=inverse)
    return step.reshape(shape)


def own_curvature(at: Derivatives) -> Floats:
    """dg_k/dF_k, shape (n_rows, n_outputs)."""
    return at.curvature if at.coupling is None else at.coupling * (1 - at.coupling)


def curved(at: Derivatives, moved: Floats) -> Floats:
    """Change of each row's gradient with a change of its scores, shape (n_rows, n_outputs)."""
    if at.coupling is None:
        return at.curvature * moved
    p = at.coupling
    return p * (moved - (p * moved).sum(axis=1, keepdims=True))


def _descended(problem: Problem, found: Solution, step: Floats) -> Solution:
    """After as much of a step as lowers the objective, which rounding may hide near the end."""
    scores, before = problem.kernel.scores(step), found.value(problem)
    for share in 0.5 ** np.arange(30):
        after = found.moved(share * step, share * scores)
        if after.value(problem) <= before + 1e-12 * abs(before):
            return after
    return found
