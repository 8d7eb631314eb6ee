"""Influence of training rows on gradient-boosted trees: LightGBM, XGBoost, CatBoost, scikit-learn.

    run = trace(model, X_train, y_train)
    BoostIn().fit(run).explain(X_test, y_test).proponents(k=10)

Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__all__ = [
    "AXIL",
    "LOO",
    "TREX",
    "Averaged",
    "BoostIn",
    "DataShapley",
    "InputSimilarity",
    "LeafInfluence",
    "LeafRefit",
    "Random",
    "SameClass",
    "SplitInfluence",
    "SubSample",
    "TrainingLoss",
    "TreeEnsemble",
    "TreeRun",
    "TreeSim",
    "report",
    "retrainer",
    "trace",
]

if TYPE_CHECKING:
    from tree_influence.averaged import Averaged
    from tree_influence.axil import AXIL
    from tree_influence.baselines import InputSimilarity, Random, SameClass, TrainingLoss
    from tree_influence.boostin import BoostIn
    from tree_influence.data_shapley import DataShapley
    from tree_influence.ensemble import TreeEnsemble
    from tree_influence.leaf_influence import LeafInfluence
    from tree_influence.leaf_refit import LeafRefit
    from tree_influence.loo import LOO
    from tree_influence.reporting import report
    from tree_influence.retrain import retrainer
    from tree_influence.run import TreeRun, trace
    from tree_influence.split_influence import SplitInfluence
    from tree_influence.subsample import SubSample
    from tree_influence.tree_sim import TreeSim
    from tree_influence.trex import TREX
else:
    __getattr__, __dir__ = exports(
        __name__,
        {
            "tree_influence.averaged": ["Averaged"],
            "tree_influence.axil": ["AXIL"],
            "tree_influence.baselines": ["InputSimilarity", "Random", "SameClass", "TrainingLoss"],
            "tree_influence.boostin": ["BoostIn"],
            "tree_influence.data_shapley": ["DataShapley"],
            "tree_influence.ensemble": ["TreeEnsemble"],
            "tree_influence.leaf_influence": ["LeafInfluence"],
            "tree_influence.leaf_refit": ["LeafRefit"],
            "tree_influence.loo": ["LOO"],
            "tree_influence.reporting": ["report"],
            "tree_influence.retrain": ["retrainer"],
            "tree_influence.run": ["TreeRun", "trace"],
            "tree_influence.split_influence": ["SplitInfluence"],
            "tree_influence.subsample": ["SubSample"],
            "tree_influence.tree_sim": ["TreeSim"],
            "tree_influence.trex": ["TREX"],
        },
    )
