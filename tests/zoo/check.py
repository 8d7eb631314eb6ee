"""A drawn model against oracles that share no code with ours, and against its verdict."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from influence import Without
from influence.errors import InfluenceError
from tests.reference.fast_boosting import FixedTrees
from tests.reference.loss_values import RowLoss
from tests.zoo.case import LibraryRefuses, Model, Trained, Zoo
from tree_influence import BoostIn, LeafInfluence, LeafRefit, TreeSim, trace

CLAIMED = 1e-4  # leaf error up to which a run claims its leaves are exact
RECOMPUTED = 3e-4  # gap of the oracle's raw scores, over their spread, that goes with it
DERIVED = 1e-3  # gap to central differences, over the largest value
DIVERGED = 1e6  # loss of the oracle's refit, over that before, beyond which nothing is compared
ROWS = 6  # training rows whose influence is compared


class Mismatch(AssertionError):
    """A number without an error, or another verdict than the table's."""


@dataclass(frozen=True)
class Outcome:
    """How a model ended: "exact", "leaf error", "refused" or "not trained" (by the library)."""

    kind: str
    says: str = ""


def check(zoo: Zoo, model: Model) -> Outcome:
    """Trains a drawn model, asks for influence, and compares.

    Raises:
        Mismatch: What came differs from an oracle or from the verdict.
    """
    try:
        trained = zoo.train(model)
    except LibraryRefuses as reason:
        return Outcome("not trained", str(reason))
    try:
        outcome = _answered(model, trained)
    except InfluenceError as error:
        outcome = Outcome("refused", f"{type(error).__name__}: {error}")
        _check_refusal(model, trained, error)
    worst = model.verdicts[0]
    if outcome.kind == "refused" or worst.kind == "leaf error" or outcome.kind == worst.kind:
        return outcome
    raise Mismatch(f"expected {worst}, got {outcome}")


def _check_refusal(model: Model, trained: Trained, error: InfluenceError) -> None:
    if not np.isfinite(trained.raw[0]).all() and "diverged" in str(error):
        return
    expected = [verdict for verdict in model.verdicts if verdict.kind == "refused"]
    if any(type(error) is one.error and one.says in str(error) for one in expected):
        return
    wanted = expected or model.verdicts
    raise Mismatch(f"expected {wanted}, got {type(error).__name__}: {error}") from error


def _answered(model: Model, trained: Trained) -> Outcome:
    worst = model.verdicts[0]
    given = [trained.X] if trained.y is None else [trained.X, trained.y, trained.sample_weight]
    asked = [trained.X_test] if trained.y_test is None else [trained.X_test, trained.y_test]
    inexact = worst.kind == "leaf error"
    run = trace(trained.model, *given, params=dict(trained.params), allow_inexact=inexact)
    _check_similarity(run, asked)
    _check_losses(model, trained, run, asked)
    values = LeafInfluence().fit(run).explain(*asked, progress=False).values
    direct = BoostIn().fit(run).explain(*asked, progress=False).values
    if not (np.isfinite(values).all() and np.isfinite(direct).all()):
        raise Mismatch("influence is not finite")
    error = run.provenance["leaf_error_largest"]
    because = str(run.provenance.get("leaves_inexact_because", ""))
    if inexact and not any(verdict.says in because for verdict in model.verdicts):
        raise Mismatch(f"expected a leaf error because of {model.verdicts}, got {because!r}")
    if not inexact and because:
        raise Mismatch(f"expected exact leaves, but the run says they are not: {because}")
    if error > CLAIMED:
        if not inexact:
            raise Mismatch(f"expected exact leaves, but the run states an error of {error:.2g}")
        return Outcome("leaf error", f"{error}: {because}")
    _check_exact(model, trained, run, values)
    return Outcome("exact")


def _check_similarity(run: Any, asked: list[Any]) -> None:
    """Whatever can be traced, TreeSim answers, unless its message says that it does not."""
    if isinstance(run._replay, Exception) and "TreeSim" not in str(run._replay):
        return
    values = TreeSim().fit(run).explain(*asked, progress=False).values
    if not (np.isfinite(values).all() and values.any()):
        raise Mismatch("similarity is not finite, or 0 everywhere")


def _check_losses(model: Model, trained: Trained, run: Any, asked: list[Any]) -> None:
    """Losses of the queries are the reference's, at the library's own raw scores."""
    if model.objective.loss is None:
        return
    raw = trained.raw[1]
    if trained.offset is not None:
        raw = raw + trained.offset[1]
    ours = run.losses(run.queries(*asked))
    theirs = np.real(model.objective.loss(model.params).value(trained.target_test, raw))
    gap = np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max())
    if not gap <= 1e-4:
        raise Mismatch(f"losses differ from the library's by {gap:.2g}")


def _check_exact(model: Model, trained: Trained, run: Any, values: np.ndarray) -> None:
    """The leaves recompute in the oracle, and influence is the derivative of its refit."""
    if model.objective.loss is None:
        raise Mismatch("an exact answer to an objective that the table gives no loss for")
    oracle, query_start = fixed_trees(model.objective.loss(model.params), trained, run)
    expected = trained.raw[0] if trained.offset is None else trained.raw[0] + trained.offset[0]
    found = oracle.raw(run.weight, oracle.leaves, oracle.start)
    moved = expected - oracle.start
    scale = np.sqrt(np.mean((moved - moved.mean(axis=0)) ** 2))
    scale = max(scale, 2e-4 * np.abs(expected).max())  # of trees that hardly move: float32
    gap = np.abs(found - expected).max() / max(scale, np.finfo(float).tiny)
    if not gap <= RECOMPUTED:
        raise Mismatch(f"the run claims exact leaves, but they recompute to {gap:.2g} only")
    queries = _queries(trained, run)
    rows = np.random.default_rng(model.seed).permutation(run.n_train)[:ROWS]
    numeric = oracle.influence_of(
        rows, run.weight, queries.leaves, query_start, trained.target_test
    )
    largest = max(np.abs(numeric).max(), np.abs(values[rows]).max())
    gap = np.abs(numeric - values[rows]).max()
    if not gap <= DERIVED * largest + 1e-5 * np.abs(values).max() + 1e-8:
        raise Mismatch(f"influence differs from central differences: {gap:.2g} of {largest:.2g}")
    _check_refit(trained, run, oracle, query_start, rows)


def _check_refit(
    trained: Trained, run: Any, oracle: FixedTrees, query_start: np.ndarray, rows: np.ndarray
) -> None:
    """The effect of leaving rows out together is that of the oracle's refit without them."""
    queries = _queries(trained, run)
    ours = LeafRefit().fit(run)._effects(queries)(Without(rows))
    left = run.weight.copy()
    left[rows] = 0.0
    after, before = (
        np.real(oracle.loss.value(trained.target_test, oracle.raw(w, queries.leaves, query_start)))
        for w in (left, run.weight)
    )
    gap, largest = np.abs(ours - (after - before)).max(), np.abs(after - before).max()
    if largest > DIVERGED * (1 + np.abs(before).max()):
        return  # the oracle's own refit blows up, and rounding decides how far
    if not gap <= DERIVED * largest + 1e-6 * np.abs(before).max() + 1e-8:
        raise Mismatch(f"the refit differs from the oracle's: {gap:.2g} of {largest:.2g}")


def _queries(trained: Trained, run: Any) -> Any:
    if trained.y_test is None:
        return run.queries(trained.X_test)
    return run.queries(trained.X_test, trained.y_test)


def fixed_trees(loss: RowLoss, trained: Trained, run: Any) -> tuple[FixedTrees, np.ndarray]:
    """The model as the oracle sees it, and the queries' raw scores before the first tree.

    Which rows share a leaf, l2 and rate are the run's word; that they are right shows in the raw
    scores, which must come out as the library's own. Loss and solution of the leaves are the
    oracle's.
    """
    recipe, ensemble = run.replay.recipe, run.adapter.ensemble
    l2 = np.ones((ensemble.n_trees, ensemble.leaf_counts.max(), ensemble.leaf_value.shape[1]))
    for t in range(ensemble.n_trees):
        own = recipe.l2[ensemble.leaf_start[t] : ensemble.leaf_start[t + 1]]
        l2[t, : len(own)] = own.reshape(len(own), -1)
    taken = recipe.taken
    if taken is None:
        taken = np.ones((ensemble.n_trees, recipe.n_steps))
    queries = _queries(trained, run)
    oracle = FixedTrees(
        loss=loss,
        leaves=run.leaves.astype(np.int64),
        rate=recipe.learning_rate,
        l2=l2,
        start=recipe.start + run.offset,
        target=trained.target,
        taken=taken,
        vector=ensemble.vector_leaves,
        full=recipe.full_hessian,
        l1=recipe.l1,
        max_step=recipe.max_step,
        n_parallel=ensemble.n_parallel,
    )
    return oracle, recipe.start + queries.offset
