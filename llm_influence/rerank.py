"""`reranked`: the strongest rows of projected gradients, put in order by whole ones."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from influence.base import Attributor
from influence.errors import InputError
from influence.progress import track
from influence.result import Provenance, check_k
from influence.run import blocks
from influence.top import TopInfluence
from llm_influence.by_rows import ByRows, Step
from llm_influence.examples import Examples
from llm_influence.projection import Identity
from llm_influence.rows import MOST_AT_ONCE
from llm_influence.run import CheckpointRun

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


def reranked(
    estimator: Attributor[CheckpointRun, Examples],
    top: TopInfluence,
    queries: Any,
    k: int | None = None,
    *,
    progress: bool = True,
) -> TopInfluence:
    """The candidates of a result of projected gradients, valued again without projection.

        top = estimator.explain_top(queries, k=40)
        reranked(estimator, top, queries, k=10).proponents()

    Both the proponents and the opponents of a query in `top` are its candidates; each gets the
    value that the same estimator gives with projection=None, and the k largest and smallest are
    kept. Rows that are not in `top` are not looked at, so take a larger k there.

    Cost: at each checkpoint one pass over the candidates and the queries, and the whole gradients
    of both in blocks of bounded memory; where those of all queries do not fit into one, candidates
    are passed once for each block of queries.

    Args:
        estimator: The fitted estimator that made `top`: a TracIn without whitening.
        top: What it found, of `explain_top`.
        queries: The same queries.
        k: How many proponents and opponents to keep; all that `top` holds if None.
        progress: Show a bar on long work.

    Returns:
        Ranked values, exact for the candidates. The provenance says so: how many candidates there
        were, and the mean rank correlation of projected with exact values within the proponents
        and the opponents of a query.

    Raises:
        InputError: The estimator maps rows after projecting them, or `top` is not of it, of its
            run or of these queries.
    """
    run, asked = estimator._ask(queries)
    steps = _whole(estimator)
    _check_same(top, estimator.provenance, asked)
    held = top.highest_rows.shape[1]
    check_k(held if k is None else k)
    if k is not None and k > held:
        raise InputError(
            f"This result holds {held} proponents and opponents of each query, {k} were asked for; "
            f"call explain_top with k={k} or more."
        )
    candidates = [
        np.unique(np.concatenate(pair))
        for pair in zip(top.highest_rows, top.lowest_rows, strict=True)
    ]
    values = _values(run, steps, asked, candidates, progress)
    return _sorted(top, candidates, values, held if k is None else int(k))


def _whole(estimator: Attributor[CheckpointRun, Examples]) -> list[Step]:
    """The estimator's steps with whole gradients in place of projected ones."""
    if not isinstance(estimator, ByRows) or any(map(_maps_rows, estimator.steps_)):
        raise InputError(
            "Expected an estimator whose values are inner products of gradients as they are, "
            f"TracIn with whiten=None, got {estimator!r}. Whatever is fitted to the rows of all "
            "training examples cannot be worked out for a few candidates."
        )
    steps = []
    for step in estimator.steps_:
        train_of = replace(step.train_of, projection=Identity())
        query_of = replace(step.query_of, projection=Identity())
        steps.append(replace(step, train_of=train_of, query_of=query_of))
    return steps


def _maps_rows(step: Step) -> bool:
    return step.train_side.linear is not None or step.query_side.linear is not None


def _check_same(top: TopInfluence, expected: Provenance, asked: Examples) -> None:
    if top.provenance != expected:
        raise InputError(
            f"Expected a result of this estimator and run ({expected.summary()}; run "
            f"{expected.fingerprint}), got one of {top.provenance.summary()}; run "
            f"{top.provenance.fingerprint}. Call its explain_top again."
        )
    if not top.query_index.equals(asked.index):
        raise InputError(
            f"Expected the {len(top.query_index)} queries of the result, got {asked.n_queries} "
            "that are labelled otherwise; give the same queries in the same order."
        )


def _values(
    run: CheckpointRun,
    steps: Sequence[Step],
    asked: Examples,
    candidates: Sequence[Rows],
    progress: bool,
) -> list[Floats]:
    """Exact values of each query's candidates."""
    found = [np.zeros(len(rows)) for rows in candidates]
    for step in steps:
        for block in blocks(asked.n_queries, _at_once(step)):
            query = step.query_side(step.query_of.rows(step.checkpoint, asked[block]))
            for rows, products in _products(run, step, query, candidates[block], progress):
                for own, values, column in zip(
                    candidates[block], found[block], products.T, strict=True
                ):
                    here = np.isin(own, rows)
                    values[here] += column[np.searchsorted(rows, own[here])]
    return found


def _products(
    run: CheckpointRun, step: Step, query: Tensor, candidates: Sequence[Rows], progress: bool
) -> Iterator[tuple[Rows, Floats]]:
    """Candidates in ascending order, a part at a time, and their products with the queries."""
    needed = np.unique(np.concatenate(candidates))
    with step.train_of.at(step.checkpoint) as rows_of:
        parts = list(blocks(len(needed), min(8 * run.batch_size, _at_once(step))))
        for part in track(parts, "whole gradients", len(parts), progress):
            rows = needed[part]
            train = step.train_side(rows_of(run.examples.take(rows)))
            weight = step.weight[rows, None] if isinstance(step.weight, Tensor) else step.weight
            yield rows, (weight * (train @ query.T).double()).cpu().numpy()


def _at_once(step: Step) -> int:
    return max(1, MOST_AT_ONCE // (8 * step.query_of.width))


def _sorted(
    top: TopInfluence, candidates: Sequence[Rows], values: Sequence[Floats], k: int
) -> TopInfluence:
    shape = (2, len(candidates), k)
    rows, kept = np.empty(shape, dtype=np.int64), np.empty(shape)
    for side, sign in enumerate((1.0, -1.0)):
        for q, (own, exact) in enumerate(zip(candidates, values, strict=True)):
            order = np.argsort(-sign * exact, kind="stable")[:k]
            rows[side, q], kept[side, q] = own[order], exact[order]
    told: dict[str, str | float] = {
        "values": "exact for the candidates, which projected gradients chose",
        "candidates": sum(map(len, candidates)),
    }
    agreement = _agreement(top, candidates, values)
    if agreement is not None:
        told["agreement_of_projected_with_exact"] = agreement
    stated = top.provenance
    provenance = replace(stated, method=f"{stated.method} reranked", run={**stated.run, **told})
    return TopInfluence(
        rows[0], kept[0], rows[1], kept[1], top.train_index, top.query_index, provenance
    )


def _agreement(
    top: TopInfluence, candidates: Sequence[Rows], values: Sequence[Floats]
) -> float | None:
    """Mean rank correlation over queries and sides; None where no side has two distinct values."""
    from scipy.stats import rankdata

    found = []
    for q, (own, exact) in enumerate(zip(candidates, values, strict=True)):
        for rows, projected in ((top.highest_rows, top.highest), (top.lowest_rows, top.lowest)):
            ranks = rankdata(projected[q]), rankdata(exact[np.searchsorted(own, rows[q])])
            if all(np.ptp(one) > 0 for one in ranks):
                found.append(float(np.corrcoef(*ranks)[0, 1]))
    return float(np.mean(found)) if found else None
