"""Curvature of every item in the columns of a basis, at a few steps along the average training."""

from collections.abc import Sequence

from torch import Tensor

from influence.progress import track
from llm_influence.order.basis import Basis
from llm_influence.order.derivatives import Derivatives, Linearised
from llm_influence.order.mean_path import MeanPath
from llm_influence.order.rules import back_through_clip
from llm_influence.order.run import OptimizerRun


def items_curved(
    run: OptimizerRun, path: MeanPath, knots: Sequence[int], basis: Basis, progress: bool
) -> Tensor:
    """How the clipped gradient of every item changes with x, shape (n_knots, n_items, K, K)."""
    like = basis.columns
    nothing = Basis(basis.scale, like[:, :0])
    held = like.new_zeros((len(knots), run.n_train, 0, 0))
    return widened(held, run, path, knots, nothing, basis, progress)


def widened(
    held: Tensor, run: OptimizerRun, path: MeanPath, knots: Sequence[int], basis: Basis,
    added: Basis, progress: bool,
) -> Tensor:  # fmt: skip
    """What is held of some columns, with that of added ones; costs products of these alone."""
    if not added.n:
        return held
    whole, n, derivatives = basis.with_columns(added), basis.n, run.derivatives()
    found = held.new_zeros((*held.shape[:2], whole.n, whole.n))
    found[..., :n, :n] = held
    pairs = [(k, i) for k in range(len(knots)) for i in range(run.n_train)]
    scales = [path.at(step).scale for step in knots]
    for k, i in track(pairs, "curvature", len(pairs), progress):
        places = run.places.of_step(knots[k])
        most = run.recipe.max_grad_norm if places.stop - places.start == 1 else None
        with derivatives.linearised(path.states[knots[k]].weights, run.row(i)) as here:
            into, out = _products(here, added.directions, most)
        found[k, i, :, n:] = (scales[k] * whole.slope(into)).T
        found[k, i, n:, :n] = scales[k] * basis.slope(out)
    return found


def _products(here: Linearised, along: Tensor, most: float | None) -> tuple[Tensor, Tensor]:
    """Jacobian of the clipped gradient times directions, and its transpose times them."""
    bent = here.products(along)[0]
    clipped = back_through_clip(here.gradient, along, most)
    if clipped is along:
        return bent, bent
    return back_through_clip(here.gradient, bent, most), here.products(clipped)[0]


def queries_curved(
    derivatives: Derivatives, weights: Tensor, batch: object, basis: Basis
) -> Tensor:
    """Second derivatives of a query's loss by x, shape (K, K)."""
    with derivatives.linearised(weights, batch) as here:
        inner = basis.slope(here.products(basis.directions)[0])
    return (inner + inner.T) / 2
