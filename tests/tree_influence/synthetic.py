"""Boostings on random structures, as the oracles and as our own code see them."""

from typing import Any

import numpy as np
import pandas as pd

from tests.reference import boosting
from tree_influence.adapters.base import LeafRecipe
from tree_influence.ensemble import Tree, stack
from tree_influence.losses import Logistic, Softmax, SquaredError
from tree_influence.replay import replay_boosting
from tree_influence.run import TreeQueries, TreeRun

LOSSES = {"squared": SquaredError(), "logistic": Logistic(), "softmax": Softmax()}

CASES = {  # loss, outputs, vector leaves with the full Hessian, Newton steps in a tree, phi
    "squared": ("squared", 1, False, 1, 1.0),
    "logistic": ("logistic", 1, False, 1, 1.0),
    "logistic, several steps": ("logistic", 1, False, 4, 1.0),
    "softmax": ("softmax", 3, False, 1, 1.5),
    "softmax, scale 2": ("softmax", 4, False, 1, 2.0),
    "softmax, full": ("softmax", 3, True, 1, 1.0),
    "softmax, full, several steps": ("softmax", 3, True, 3, 1.0),
}


def random_boosting(case, seed=0, n_train=25, n_queries=5, n_rounds=4, n_leaves=4):
    """An oracle's boosting, row weights, query leaves and query targets."""
    loss, n_outputs, full, n_steps, scale = CASES[case]
    rng = np.random.default_rng(seed)
    n_trees = 1 if full else n_outputs
    if loss == "squared":
        draw = rng.normal
    else:
        draw = lambda size: rng.integers(0, max(2, n_outputs), size).astype(float)  # noqa: E731
    described = boosting.Boosting(
        loss=loss,
        n_outputs=n_outputs,
        leaves=rng.integers(0, n_leaves, (n_rounds, n_trees, n_train)),
        n_leaves=n_leaves,
        rate=rng.uniform(0.1, 0.5, (n_rounds, n_trees)),
        l2=rng.uniform(0.2, 2.0, (n_rounds, n_trees, n_leaves)),
        start=rng.normal(size=n_outputs) * 0.3,
        target=draw(size=n_train),
        hessian_scale=scale,
        n_steps=n_steps,
        full=full,
    )
    weight = rng.uniform(0.3, 2.0, n_train)
    query_leaves = rng.integers(0, n_leaves, (n_rounds, n_trees, n_queries))
    return described, weight, query_leaves, draw(size=n_queries)


def as_run(described, weight, query_leaves, query_target, stored=None):
    """The same boosting as a `TreeRun` and its queries; `stored` leaf values as refit if None."""
    values = boosting.refit(described, weight) if stored is None else stored
    n_rounds, n_trees = described.leaves.shape[:2]
    n_nodes = described.n_leaves - 1
    chain = [
        Tree(
            feature=np.zeros(n_nodes, int),
            threshold=np.arange(n_nodes) + 0.5,
            left=~np.arange(n_nodes),
            right=np.append(np.arange(1, n_nodes), ~n_nodes),
            missing=np.full(n_nodes, 2),
            leaf_value=values[r, k],
            leaf_label=np.arange(described.n_leaves),
        )
        for r in range(n_rounds)
        for k in range(n_trees)
    ]
    ensemble = stack(chain, described.start, n_features=1, compares_float32=False)
    recipe = LeafRecipe(
        loss=LOSSES[described.loss],
        learning_rate=described.rate.reshape(-1),
        l2=described.l2.reshape(-1),
        start=described.start,
        folded=np.zeros(n_rounds * n_trees),
        hessian_scale=described.hessian_scale,
        n_steps=described.n_steps,
        full_hessian=described.full,
    )

    def flat(leaves):
        return leaves.reshape(n_rounds * n_trees, -1).astype(ensemble.leaf_dtype)

    leaves = flat(described.leaves)
    replay = replay_boosting(ensemble, recipe, leaves, described.target, weight)
    n_train = len(weight)
    adapter: Any = SyntheticAdapter(ensemble)
    run = TreeRun(
        adapter=adapter, prefix=None, X=None, y=described.target,
        sample_weight=None, classes=None, target=described.target, weight=weight, leaves=leaves,
        train_index=pd.RangeIndex(n_train), _replay=replay,
    )  # fmt: skip
    index = pd.RangeIndex(len(query_target))
    return run, TreeQueries(flat(query_leaves), query_target, index)


class SyntheticAdapter:
    """As much of an adapter as a run that was never traced needs."""

    library = "synthetic 1.0"

    def __init__(self, ensemble):
        self.ensemble = ensemble
