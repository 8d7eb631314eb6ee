"""What would this model say, had its training been different?

The nouns every method shares: a Run, a Change of the training, and its effect on the loss of
queries. `tree_influence` and `llm_influence` hold the methods. Names are imported on first use.
"""

from typing import TYPE_CHECKING

from influence.lazy import exports

__version__ = "0.1.0.dev0"

__all__ = [
    "Attributor",
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
    "errors",
    "label_noise_curve",
    "leave_one_out",
    "random_orders",
    "random_subsets",
    "remove_top",
    "retrain_all",
]

if TYPE_CHECKING:
    from influence import errors
    from influence.base import Attributor, Estimator, InnerProduct
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
    from influence.detection import label_noise_curve
    from influence.evaluate import agreement, retrain_all
    from influence.result import Influence
    from influence.top import TopInfluence
else:
    __getattr__, __dir__ = exports(
        __name__,
        {
            "influence.base": ["Attributor", "Estimator", "InnerProduct"],
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
            "influence.detection": ["label_noise_curve"],
            "influence.errors": [],
            "influence.evaluate": ["agreement", "retrain_all"],
            "influence.result": ["Influence"],
            "influence.top": ["TopInfluence"],
        },
    )
