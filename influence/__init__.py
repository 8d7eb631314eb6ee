"""What would this model say, had its training been different?

The nouns every method shares: a Run, a Change of the training, and its effect on the loss of
queries. `tree_influence` and `llm_influence` hold the methods. Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__version__ = "0.1.0.dev0"

__all__ = [
    "Attributor",
    "Campaign",
    "Estimator",
    "Influence",
    "InnerProduct",
    "Relabelled",
    "Reordered",
    "Reweighted",
    "TopInfluence",
    "Without",
    "__version__",
    "agreement",
    "compare_methods",
    "counterfactual",
    "errors",
    "far_end",
    "label_noise_curve",
    "leave_one_out",
    "measured",
    "next_class",
    "noise_detection",
    "noise_floor",
    "random_orders",
    "random_subsets",
    "relabelling_curve",
    "removal_curve",
    "remove_top",
    "retrain_all",
]

if TYPE_CHECKING:
    from influence import errors
    from influence.base import Attributor, Estimator, InnerProduct
    from influence.campaign import Campaign, retrain_all
    from influence.change import (
        Relabelled,
        Reordered,
        Reweighted,
        Without,
        leave_one_out,
        random_orders,
        random_subsets,
        remove_top,
    )
    from influence.comparison import compare_methods
    from influence.counterfactual import counterfactual
    from influence.detection import label_noise_curve, noise_detection
    from influence.evaluate import agreement, noise_floor
    from influence.measuring import measured
    from influence.removal import far_end, next_class, relabelling_curve, removal_curve
    from influence.result import Influence
    from influence.top import TopInfluence
else:
    __getattr__, __dir__ = exports(
        __name__,
        {
            "influence.base": ["Attributor", "Estimator", "InnerProduct"],
            "influence.campaign": ["Campaign", "retrain_all"],
            "influence.change": [
                "Relabelled",
                "Reordered",
                "Reweighted",
                "Without",
                "leave_one_out",
                "random_orders",
                "random_subsets",
                "remove_top",
            ],
            "influence.comparison": ["compare_methods"],
            "influence.counterfactual": ["counterfactual"],
            "influence.detection": ["label_noise_curve", "noise_detection"],
            "influence.errors": [],
            "influence.evaluate": ["agreement", "noise_floor"],
            "influence.measuring": ["measured"],
            "influence.removal": ["far_end", "next_class", "relabelling_curve", "removal_curve"],
            "influence.result": ["Influence"],
            "influence.top": ["TopInfluence"],
        },
    )
