"""`curriculum`: the order of training that is best for some queries, found and really tried."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence import storage
from influence.change import Reordered
from influence.checks import check_whole
from influence.result_html import result_html
from llm_influence.order.comparison import Folder, OrderComparison, judged
from llm_influence.order.method import Floats, Method
from llm_influence.order.places import Unit
from llm_influence.order.run import OptimizerRun
from llm_influence.order.sample_order import Name, SampleOrder

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "curriculum"


@dataclass(frozen=True, eq=False, repr=False)
class Curriculum:
    """An order that was found, beside random ones, all of them really trained.

    Effects are changes of a query's loss against the recorded order, negative = better.

    Attributes:
        order: The item of every place, shape (n_places,).
        predicted: Predicted effect of the order on each query, shape (n_queries,).
        retrained: The same after really training in it.
        random: Random orders, likewise predicted and trained.
    """

    order: NDArray[np.int64]
    predicted: Floats
    retrained: Floats
    random: OrderComparison

    @property
    def change(self) -> Reordered:
        """The order, as a change of the run."""
        return Reordered(self.order)

    @property
    def rank(self) -> int:
        """1 where the order has a lower mean loss than every random order but itself."""
        real = self.random.retrained[self._others].mean(axis=1)
        return 1 + int((real <= self.retrained.mean()).sum())

    @property
    def beats_all(self) -> bool:
        """Whether no random order has so low a mean loss."""
        return self.rank == 1

    @property
    def verdict(self) -> str:
        """What real training says of the order, against random ones and the recorded one."""
        n, effect = int(self._others.sum()), self.retrained.mean()
        if not self.beats_all:
            also = "" if effect < 0 else ", and so is the recorded order"
            return f"No success: {self.rank - 1} of {n} random orders are as good or better{also}."
        than = " and than" if effect < 0 else f", but {'worse' if effect > 0 else 'no better'} than"
        return f"Really trained, it is better than all {n} random orders{than} the recorded order."

    @property
    def _others(self) -> NDArray[np.bool_]:
        """Which random orders are other ones than that found."""
        return (self.random.orders != self.order).any(axis=1)

    def to_frame(self) -> pd.DataFrame:
        """Mean predicted and real effect over the queries, one row for each order trained."""
        n = len(self.random.orders)
        predicted = [self.predicted.mean(), 0.0, *self.random.predicted.mean(axis=1)]
        retrained = [self.retrained.mean(), 0.0, *self.random.retrained.mean(axis=1)]
        names = ["found", "recorded", *(f"random {i}" for i in range(n))]
        return pd.DataFrame({"predicted": predicted, "retrained": retrained}, pd.Index(names))

    def summary(self) -> str:
        """What was found, in words."""
        real = self.random.retrained.mean(axis=1)
        return (
            f"Order found: {self.order.tolist()}\n"
            "Effect on the mean loss against the recorded order (negative = better):\n"
            f"  found     predicted {self.predicted.mean():+.3g}, really "
            f"{self.retrained.mean():+.3g}\n"
            f"  random    really {real.min():+.3g} to {real.max():+.3g}, mean {real.mean():+.3g}, "
            f"sd {real.std():.2g}\n"
            f"{self.verdict}\n"
            f"{self.random.summary()}"
        )

    def __repr__(self) -> str:
        return f"<Curriculum {self.summary()}>"

    def _repr_html_(self) -> str:
        title = "An order of training, found and really tried, beside random ones"
        return result_html(title, self.summary(), self.to_frame())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Real mean effects: a histogram of the random orders, lines for found and recorded."""
        from influence.plotting import curriculum_histogram

        real = self.random.retrained.mean(axis=1)
        return curriculum_histogram(real, float(self.retrained.mean()), ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the curriculum to one file."""
        own = {f"found_{name}": getattr(self, name) for name in ("order", "predicted", "retrained")}
        storage.write(path, KIND, self.random.header(), **own, **self.random.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote."""
        header, arrays = storage.read(path, KIND)
        return cls(
            arrays["found_order"], arrays["found_predicted"], arrays["found_retrained"],
            OrderComparison.of(header, arrays),
        )  # fmt: skip


def curriculum(
    run: OptimizerRun,
    queries: Sequence[Any],
    method: Name | Method = "mean_field",
    *,
    n_random: int = 30,
    seed: int = 0,
    unit: Unit = "batch",
    anyway: bool = False,
    cache: Folder = None,
    progress: bool = True,
) -> Curriculum:
    """Finds the order of least mean loss over the queries, and really trains in it.

    The random orders are trained too, so that it shows whether the order found is more than luck,
    and how far the predictions it was found by can be trusted.

    Cost: building the method, the search, and n_random + 4 retrainings.

    Args:
        run: A recorded training.
        queries: A list of batches, each a query: its loss is the mean over the batch.
        method: Of `SampleOrder`.
        n_random: Random orders that are trained beside it, at least 3.
        seed: Of the orders, the method and its search.
        unit: What is put into another order: "batch" or "sample".
        anyway: Search although calibration is poor.
        cache: Folder of finished retrainings: a cut search goes on where it was.
        progress: Show a bar.

    Raises:
        InputError: An argument does not fit, or the training has too few different orders.
        UnsupportedChangeError: Calibration is poor: predictions do not rank real orders.
        RetrainingError: A training in another order diverged.
    """
    check_whole("n_random", n_random, least=3)
    fitted = SampleOrder(method, unit=unit, seed=seed)
    both = judged(run, queries, fitted, n_random, cache, progress)
    best = both.answer.best(anyway=anyway, progress=progress)
    order = both.answer.places.sorted_in_steps(best.order[None])[0]
    found = Reordered(order)
    predicted = both.answer.effects([found])[0]
    return Curriculum(order, predicted, both.retrain(found), both.random())
