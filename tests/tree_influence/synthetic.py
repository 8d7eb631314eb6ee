"""Boostings on random structures, as the oracles and as our own code see them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tests.reference import boosting
from tree_influence.adapters.base import GivenRows, LeafRecipe
from tree_influence.ensemble import Tree, stack
from tree_influence.losses import Logistic, OneVsAll, Softmax, SquaredError
from tree_influence.losses_positive import Gamma, Poisson
from tree_influence.replay import replay_boosting
from tree_influence.run import TreeQueries, TreeRun


@dataclass(frozen=True)
class Case:
    """What a random boosting is like; see `reference.boosting.Boosting`."""

    loss: str
    n_outputs: int = 1
    leaves: str = "scalar"  # "vector": each output on its own; "full": the full Hessian
    n_steps: int = 1
    hessian_scale: float = 1.0
    l1: float = 0.0
    max_step: float = np.inf
    offset: bool = False
    n_parallel: int = 1


CASES = {
    "squared": Case("squared"),
    "squared, offset": Case("squared", offset=True),
    "squared, l1": Case("squared", l1=0.5),
    "logistic": Case("logistic"),
    "logistic, offset": Case("logistic", offset=True),
    "logistic, l1": Case("logistic", l1=0.2),
    "logistic, bounded steps": Case("logistic", max_step=0.3),
    "logistic, several steps": Case("logistic", n_steps=4),
    "poisson, inflated": Case("poisson", hessian_scale=np.exp(0.7)),
    "gamma": Case("gamma"),
    "one-vs-all": Case("one_vs_all", 3),
    "one-vs-all, vector": Case("one_vs_all", 3, "vector"),
    "one-vs-all, vector, several steps": Case("one_vs_all", 3, "vector", n_steps=3),
    "logistic, forests": Case("logistic", n_parallel=2),
    "one-vs-all, vector, forests": Case("one_vs_all", 3, "vector", n_parallel=2),
    "softmax, forests": Case("softmax", 3, hessian_scale=2.0, n_parallel=2),
    "softmax": Case("softmax", 3, hessian_scale=1.5),
    "softmax, offset": Case("softmax", 3, offset=True),
    "softmax, scale 2": Case("softmax", 4, hessian_scale=2.0),
    "softmax, vector": Case("softmax", 3, "vector", hessian_scale=2.0),
    "softmax, full": Case("softmax", 3, "full"),
    "softmax, full, several steps": Case("softmax", 3, "full", n_steps=3),
}


def random_boosting(case, seed=0, n_train=25, n_queries=5, n_rounds=4, n_leaves=4):
    """An oracle's boosting, row weights, query leaves and query targets."""
    asked = CASES[case]
    n_outputs = asked.n_outputs
    rng = np.random.default_rng(seed)
    n_trees = n_outputs if asked.leaves == "scalar" else 1
    if asked.loss == "squared":
        draw = rng.normal
    else:
        draw = lambda size: rng.integers(0, max(2, n_outputs), size).astype(float)  # noqa: E731
    described = boosting.Boosting(
        loss=asked.loss,
        n_outputs=n_outputs,
        leaves=rng.integers(0, n_leaves, (n_rounds, n_trees, n_train)),
        n_leaves=n_leaves,
        rate=rng.uniform(0.1, 0.5, (n_rounds, n_trees)),
        l2=rng.uniform(0.2, 2.0, (n_rounds, n_trees, n_leaves)),
        start=rng.normal(size=n_outputs) * 0.3,
        target=draw(size=n_train),
        hessian_scale=asked.hessian_scale,
        n_steps=asked.n_steps,
        full=asked.leaves == "full",
        vector=asked.leaves == "vector",
        l1=asked.l1,
        max_step=asked.max_step,
        n_parallel=asked.n_parallel,
        offset=0.5 * rng.normal(size=(n_train, n_outputs)) * asked.offset,
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
    ensemble = stack(
        chain,
        described.start,
        n_features=1,
        compares_float32=False,
        n_parallel=described.n_parallel,
    )
    recipe = LeafRecipe(
        loss=loss_of(described),
        learning_rate=described.rate.reshape(-1),
        l2=described.l2.reshape(-1),
        start=described.start,
        folded=np.zeros(n_rounds * n_trees),
        n_steps=described.n_steps,
        full_hessian=described.full,
        l1=described.l1,
        max_step=described.max_step,
    )

    def flat(leaves):
        return leaves.reshape(n_rounds * n_trees, -1).astype(ensemble.leaf_dtype)

    leaves = flat(described.leaves)
    n_train = len(weight)
    offset = np.broadcast_to(described.offset, (n_train, described.n_outputs))
    replay = replay_boosting(ensemble, recipe, leaves, described.target, weight, offset)
    adapter: Any = SyntheticAdapter(ensemble)
    run = TreeRun(
        adapter=adapter, prefix=None, X=None, y=described.target,
        sample_weight=weight, classes=None, target=described.target, weight=weight, leaves=leaves,
        offset=offset, given_offset=None, train_index=pd.RangeIndex(n_train), _replay=replay,
    )  # fmt: skip
    index = pd.RangeIndex(len(query_target))
    no_offset = np.zeros((len(query_target), described.n_outputs))
    rows = GivenRows(np.zeros((len(query_target), 1)), query_target)
    return run, TreeQueries(flat(query_leaves), query_target, no_offset, index, rows)


def loss_of(described):
    """The same loss in our code."""
    if described.loss == "softmax":
        return Softmax(hessian_scale=described.hessian_scale)
    if described.loss == "poisson":
        return Poisson(inflation=np.log(described.hessian_scale))
    return {
        "squared": SquaredError(),
        "logistic": Logistic(),
        "one_vs_all": OneVsAll(),
        "gamma": Gamma(),
    }[described.loss]


class SyntheticAdapter:
    """As much of an adapter as a run that was never traced needs."""

    library = "synthetic 1.0"
    n_targets = 1
    starts_at_average = False

    def __init__(self, ensemble):
        self.ensemble = ensemble
