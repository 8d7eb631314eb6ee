"""`GaussNewton`: influence functions with the exact Gauss-Newton matrix, by conjugate gradients."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from influence.checks import check_positive, check_share, check_whole
from influence.errors import InputError
from llm_influence.by_rows import ByRows, Side, Step
from llm_influence.coverage import moved
from llm_influence.curvature import Curvature, Fisher, damped_inverse, kronecker_curvature
from llm_influence.outputs import check_built_in, outputs
from llm_influence.passes import precision, still
from llm_influence.projection import Identity, Segment
from llm_influence.rows import RowMap, training_rows
from llm_influence.run import CheckpointRun


class GaussNewton(ByRows):
    """What leaving out a training example would do to the optimum, with all curvature.

        values[i, q] = (1 / n) g_q^T (H + damping * D)^-1 g_i,    H = (1/n) sum_i J_i^T W_i J_i

    with J_i the derivative of an example's outputs by the parameters, W_i the Hessian of its loss
    by its outputs, and D the mean eigenvalue of each block (a layer), as `EKFAC` has it: the two
    differ in H alone, which here is exact, between layers too. The expensive reference.

    Systems are solved by block conjugate gradients, preconditioned by EK-FAC, for all queries of a
    block together, until the residual is at most `tolerance` of the query's gradient, both measured
    in the inverse of EK-FAC's curvature. It is then worked out again from the answer itself.
    Results state the largest `residual` and the most `iterations` of the queries asked since fit;
    what does not get there is refused.

    Sign: positive = proponent. Unit: "loss".
    Cost: fit is that of `EKFAC`. A query costs, for each iteration, two backward passes over the
    training examples; a block of queries shares one forward and one differentiable backward pass
    an iteration. Attention runs in its plain form, whose derivatives have derivatives.
    Wrong where training was far from converged, and where the model fits badly: the Hessian's
    other part, through the outputs' curvature, is left out.

    Reference: Koh and Liang, "Understanding Black-box Predictions via Influence Functions", 2017,
    section 3 (there with the Hessian); Schraudolph, "Fast Curvature Matrix-Vector Products", 2002.

    Args:
        damping: Added to H, as a multiple of the mean eigenvalue of a block.
        tolerance: Residual at which queries are done.
        max_iterations: Iterations at most.
        seed: Seed of the labels drawn for the preconditioner and the mean eigenvalues.

    Raises:
        UnsupportedModelError: (by fit) A loss of your own, whose outputs are not known.
        InputError: (by explain) The tolerance was not reached.
    """

    def __init__(
        self,
        damping: float = 1.0,
        tolerance: float = 0.02,
        max_iterations: int = 100,
        seed: int = 0,
    ) -> None:
        check_positive("damping", damping)
        check_share("tolerance", tolerance)
        check_whole("max_iterations", max_iterations, least=1)
        check_whole("seed", seed)
        self.damping = damping
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.seed = seed

    def _steps(
        self, run: CheckpointRun, store: str | os.PathLike[str] | None, progress: bool
    ) -> Sequence[Step]:
        check_built_in(run.loss, "GaussNewton", 'use EKFAC(labels="true")')
        last = replace(run, checkpoints=run.checkpoints[-1:])
        rows_of = RowMap(last, Identity())
        segments = rows_of.bound.segments
        fisher = Fisher(last, [0], "sampled", self.seed, progress)
        curvature = kronecker_curvature(fisher, segments, corrected=True)
        train = training_rows(rows_of, store, progress)
        self.findings_ = {"residual": 0.0, "iterations": 0.0}
        matrix = GaussNewtonMatrix(last, segments)
        side = Side(lambda rows: self._solved(matrix, curvature, rows))
        return [Step(0, train, rows_of, rows_of, query_side=side, weight=1 / run.n_train)]

    def _solved(self, matrix: "GaussNewtonMatrix", curvature: Curvature, rows: Tensor) -> Tensor:
        """Rows x of (H + damping D) x = row, by block conjugate gradients, in float64.

        With S^2 the inverse of EK-FAC's curvature, S (H + damping D) S y = S row is solved, and
        x = S y. All rows share one Krylov space.
        """

        def system(vectors: Tensor) -> Tensor:  # vectors are columns
            along = curvature.mapped(vectors.T, self._root).to(rows)
            curved = curvature.mapped(matrix.product(along).double(), self._root)
            return (curved + curvature.mapped(vectors.T, self._ridge)).T

        aim = curvature.mapped(rows.double(), self._root).T
        solution, iterations = block_conjugate_gradients(
            system, aim, self.tolerance / 2, self.max_iterations
        )
        residual = float(_lengths_to(aim - system(solution), aim).max()) if len(rows) else 0.0
        if not residual <= self.tolerance:
            raise InputError(
                f"Expected conjugate gradients to reach a residual of {self.tolerance:g}, got "
                f"{residual:.2g} after {iterations} iterations; give a larger damping, "
                "max_iterations or tolerance, or a model in a wider number type."
            )
        self._state(residual, iterations)
        return curvature.mapped(solution.T, self._root)

    def _root(self, values: Tensor) -> Tensor:
        """Eigenvalues of S; 0 where a block has no curvature at all, which then has no part."""
        return damped_inverse(self.damping)(values).sqrt()

    def _ridge(self, values: Tensor) -> Tensor:
        """Eigenvalues of S damping D S; 1 where a block has no curvature, to keep it regular."""
        inverse = damped_inverse(self.damping)(values)
        return torch.where(inverse > 0, self.damping * values.mean() * inverse, 1.0)

    def _state(self, residual: float, iterations: int) -> None:
        self.findings_ = {
            "residual": max(self.findings_["residual"], residual),
            "iterations": max(self.findings_["iterations"], float(iterations)),
        }


@dataclass(frozen=True, eq=False)
class GaussNewtonMatrix:
    """H = (1/n) sum_i J_i^T W_i J_i at the run's only checkpoint, without being formed.

    J v is the derivative by u of (J^T u) . v, a backward pass through a backward pass: it needs
    second derivatives of the model's layers, which most have, and no forward mode, which some
    lack.

    Attributes:
        run: A run of one checkpoint and a built-in loss.
        segments: Where each block lies in a vector.
    """

    run: CheckpointRun
    segments: Mapping[str, Segment]

    def product(self, vectors: Tensor) -> Tensor:
        """H applied to vectors, shape (n_vectors, width)."""
        out = torch.zeros_like(vectors)
        with self.run.at(0) as model, _required(model, self._names()) as parameters:
            directions = [self._spread(vector, parameters) for vector in vectors]
            for rows in self.run.batches(self.run.examples):
                batch = moved(self.run.examples.batch(rows), self.run.device)
                with precision(model, self.run.autocast):
                    found = outputs(self.run.loss, model, batch)
                z, inputs = found.values, list(parameters.values())
                u = torch.zeros_like(z, requires_grad=True)
                back = _gradients(z, inputs, u, create_graph=True)  # J^T u
                for k, direction in enumerate(directions):
                    parts = [(b * v).sum() for b, v in zip(back, direction, strict=True)]
                    dot = torch.stack(parts).sum()
                    (moved_outputs,) = torch.autograd.grad(dot, u, retain_graph=True)  # J v
                    product = _gradients(z, inputs, found.curved(moved_outputs))
                    self._add(dict(zip(parameters, product, strict=True)), out[k])
        return out / self.run.n_train

    def _names(self) -> list[str]:
        blocks = self.run.coverage.blocks.values()
        return list(dict.fromkeys(name for b in blocks for name in b.parameters.values()))

    def _add(self, named: Mapping[str, Tensor], out: Tensor) -> None:
        for name, block in self.run.coverage.blocks.items():
            out[self.segments[name].columns] += block.arranged(named).flatten().to(out)

    def _spread(self, vector: Tensor, parameters: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """A vector as one tensor for each parameter.

        Blocks are arranged by moving numbers about, which is undone by its own transpose.
        """
        empty = {n: torch.zeros_like(p, requires_grad=True) for n, p in parameters.items()}
        total = torch.zeros((), device=vector.device, dtype=vector.dtype)
        for name, block in self.run.coverage.blocks.items():
            arranged = block.arranged(empty)
            aimed = vector[self.segments[name].columns].reshape(arranged.shape)
            total = total + (arranged * aimed).sum()
        return torch.autograd.grad(total, list(empty.values()))


@contextmanager
def _required(model: nn.Module, names: Sequence[str]) -> Iterator[Mapping[str, Tensor]]:
    """The model without dropout, only these parameters trained, in plain attention."""
    named = dict(model.named_parameters())
    with still(model), sdpa_kernel(SDPBackend.MATH):
        chosen = {name: named[name] for name in names}
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        try:
            yield chosen
        finally:
            for parameter in chosen.values():
                parameter.requires_grad_(False)


def _gradients(
    of: Tensor, by: Sequence[Tensor], along: Tensor, create_graph: bool = False
) -> tuple[Tensor, ...]:
    return torch.autograd.grad(
        of, by, along, retain_graph=True, create_graph=create_graph, allow_unused=True,
        materialize_grads=True,
    )  # fmt: skip


def block_conjugate_gradients(
    system: Callable[[Tensor], Tensor], aim: Tensor, tolerance: float, most: int
) -> tuple[Tensor, int]:
    """Solution of system(X) = aim for all columns of aim, shape (width, n), and the iterations.

    The residual is Q C with Q orthonormal, so that equal or dependent columns do no harm.

    Reference: Dubrulle, "Retooling the Method of Block Conjugate Gradients", 2001, algorithm
    BCGrQ.

    Args:
        system: A symmetric positive definite map of columns.
        aim: Right sides.
        tolerance: Length of every column's residual, relative to the column, at which to stop.
        most: Iterations at most.
    """
    basis, left = torch.linalg.qr(aim)
    along, solution = basis, torch.zeros_like(aim)
    for iteration in range(most):
        if not (_lengths_to(left, aim) > tolerance).any():
            return solution, iteration
        product = system(along)
        inverse = torch.linalg.pinv(along.T @ product, hermitian=True)
        solution = solution + along @ (inverse @ left)
        basis, turn = torch.linalg.qr(basis - product @ inverse)
        left = turn @ left
        along = basis + along @ turn.T
    return solution, most


def _lengths_to(vectors: Tensor, aim: Tensor) -> Tensor:
    """Lengths of columns relative to those of `aim`."""
    return vectors.norm(dim=0) / aim.norm(dim=0).clamp_min(torch.finfo(aim.dtype).tiny)
