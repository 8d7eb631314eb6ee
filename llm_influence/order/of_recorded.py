"""`OfRecorded`: what every estimator of a recorded training has in common."""

from typing import Any

from influence.errors import InputError
from llm_influence.order.run import OptimizerRun


class OfRecorded:
    """Mixed into an estimator, whose `fit` takes a run that `record` made and nothing else."""

    @staticmethod
    def _trace(model: Any, *data: Any) -> OptimizerRun:
        raise InputError(
            "Expected a recorded training: fit(run) with run = recording.run "
            f"(llm_influence.record), got a {type(model).__name__} and {len(data)} more; how it "
            "was trained is not known."
        )


def as_recorded(run: Any) -> OptimizerRun:
    """Refuses everything but a recorded training: nothing else knows its steps."""
    if not isinstance(run, OptimizerRun):
        raise InputError(
            f"Expected a recorded training (llm_influence.record), got a {type(run).__name__}, "
            "whose steps are not known."
        )
    return run
