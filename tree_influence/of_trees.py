"""`OfTrees`: what every estimator of a tree ensemble has in common."""

from typing import Any

from tree_influence.run import TreeRun, trace


class OfTrees:
    """Mixed into an estimator, so that `fit` takes a run or what `trace` takes."""

    @staticmethod
    def _trace(model: Any, *data: Any) -> TreeRun:
        return trace(model, *data)
