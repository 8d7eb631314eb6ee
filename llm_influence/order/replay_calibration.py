"""How far the predictions of `Replay` agree with a few real trainings without half of the rows.

What all such trainings have in common is no matter of derivatives: under Adam half of a batch makes
noisier steps, not smaller ones. It drops out where changes are compared, so slope and correlation
are of effects about their mean over the halves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence.change import Without
from influence.errors import UnsupportedChangeError
from influence.progress import track
from influence.result_html import result_html
from llm_influence.order.retrain import OrderRetrainer
from llm_influence.order.run import BatchQueries, OptimizerRun

Floats = NDArray[np.float64]

N_QUERIES = 4  # batches of the run whose losses are compared
SLOPES = (0.25, 4.0)  # of real on predicted effects, beyond which no answer is given


@dataclass(frozen=True)
class Calibration:
    """Predicted against real effects on the losses of some of the run's own batches.

    Attributes:
        slope: Of real on predicted effects, each about its mean over the subsets, all batches
            together: 1 = right size.
        correlation: Of the same.
        relative_error: Sum of the absolute errors over the sum of the absolute real effects, not
            about means: 0 = exact, 1 = no better than predicting no effect.
        n_subsets: Trainings compared, each without a random half of the rows.
    """

    slope: float
    correlation: float
    relative_error: float
    n_subsets: int

    @property
    def findings(self) -> dict[str, float]:
        return {
            "slope of real on predicted": self.slope,
            "correlation with real": self.correlation,
            "relative error": self.relative_error,
        }

    def _repr_html_(self) -> str:
        title = f"Predicted against real effects over {self.n_subsets} trainings without half"
        return result_html(title, pd.DataFrame([self.findings]))

    def check(self) -> None:
        """Whether predictions have about the size and the sign of real effects.

        Raises:
            UnsupportedChangeError: They do not.
        """
        if SLOPES[0] <= self.slope <= SLOPES[1]:
            return
        raise UnsupportedChangeError(
            f"Expected effects that real trainings confirm (slope of real on predicted ones from "
            f"{SLOPES[0]:g} to {SLOPES[1]:g}), but over {self.n_subsets} trainings without half of "
            f"the rows the slope is {self.slope:.2g}, the correlation {self.correlation:.2g} and "
            f"the relative error {self.relative_error:.2g}: this training answers changes in "
            "another way than its derivative. Record one with a lower learning rate or from "
            'trained weights, try Replay with path="halves" or a larger smoothing, or ask '
            "SampleOrder if order is the question. A larger calibrate judges more finely; "
            "calibrate=0 shows the numbers anyway."
        )


def calibrated(
    run: OptimizerRun,
    subsets: Sequence[Without],
    explained: Callable[[BatchQueries], Floats],
    progress: bool,
) -> Calibration:
    """Really trains without each subset.

    Args:
        run: The run, in the unit that subsets are of.
        subsets: Rows left out; at least two subsets.
        explained: From queries to values, shape (n_train, n_queries).
        progress: Show a bar.
    """
    asked = own_batches(run)
    values = explained(asked)
    retrain = OrderRetrainer(run, asked, run.losses(asked))
    tracked = track(subsets, "calibration", len(subsets), progress)
    real = np.stack([retrain(subset) for subset in tracked])
    return compared(np.stack([values[subset.rows].sum(axis=0) for subset in subsets]), real)


def own_batches(run: OptimizerRun) -> BatchQueries:
    """Some of the run's distinct batches as queries, evenly spaced."""
    n = min(N_QUERIES, run.n_batches)
    chosen = np.linspace(0, run.n_batches - 1, n).round().astype(int)
    return BatchQueries([run.batch(i) for i in chosen], pd.Index(chosen))


def compared(predicted: Floats, real: Floats) -> Calibration:
    """Compares effects, each shape (n_subsets, n_queries)."""
    with np.errstate(all="ignore"):  # what is not finite is refused
        about, real_about = (x - x.mean(axis=0) for x in (predicted, real))
        together = (about * real_about).sum()
        slope = together / (about**2).sum()
        correlation = together / np.sqrt((about**2).sum() * (real_about**2).sum())
        error = np.abs(predicted - real).sum() / np.abs(real).sum()
    return Calibration(float(slope), float(correlation), float(error), len(real))
