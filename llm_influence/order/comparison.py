"""`compare_orders`: predicted effects of random orders beside those of really training in them."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from influence import storage
from influence.campaign import Campaign
from influence.change import Change, Reordered
from influence.checks import check_whole
from influence.errors import InputError
from influence.evaluate import Agreement, compare
from influence.result_html import result_html
from llm_influence.order.few import Interval, bracketed, check_orders, counted, stated
from llm_influence.order.method import Floats, Method, Orders
from llm_influence.order.of_recorded import as_recorded
from llm_influence.order.places import Places, Unit
from llm_influence.order.retrain import OrderRetrainer
from llm_influence.order.run import OptimizerRun
from llm_influence.order.sample_order import Calibration, Name, OrderAnswer, SampleOrder
from llm_influence.order.search import judging

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Folder = str | os.PathLike[str] | None

KIND = "order comparison"
LEAST = 3  # different orders that a rank correlation needs
SPARE = 4  # times as many orders drawn as wanted, as some may be the same training


@dataclass(frozen=True, eq=False, repr=False)
class OrderComparison:
    """Predicted and real effects of random orders; made by `compare_orders`.

    Attributes:
        orders: The item of every place in each order, shape (n_orders, n_places).
        predicted: Predicted change of each query's loss against the recorded order, shape
            (n_orders, n_queries); positive = worse.
        retrained: The same after really training in each order.
        method: What predicted.
        calibration: What the method could say of itself beforehand, from other orders; None if it
            was not asked to.
    """

    orders: Orders
    predicted: Floats
    retrained: Floats
    method: str
    calibration: Calibration | None

    @cached_property
    def agreement(self) -> Agreement:
        """Rank correlation, slope and error of the predictions."""
        return compare(self.predicted, self.retrained)

    @property
    def interval(self) -> Interval | None:
        """95 % bootstrap interval of the mean Spearman; None of fewer than 8 orders."""
        return stated(self.agreement.interval, len(self.orders))

    @property
    def counted(self) -> str:
        """How many orders, in words; says so where they are few."""
        return counted(len(self.orders))

    def summary(self) -> str:
        """What was found, in three lines."""
        found = self.agreement
        n_queries = self.predicted.shape[1]
        return (
            f"{self.method}: predicted against retrained loss of {n_queries} "
            f"{'query' if n_queries == 1 else 'queries'} over {self.counted}:\n"
            f"Spearman {found.mean:.3f}{bracketed(self.interval, 3)}, slope "
            f"{np.nanmean(found.slope):.2f}, error {np.nanmean(found.mae_over_sd):.2f} of the "
            f"effects' spread ({np.sqrt((self.retrained.std(axis=0) ** 2).mean()):.2g}).\n"
            f"Calibration beforehand: {self.calibration or 'none'}."
        )

    def __repr__(self) -> str:
        return f"<OrderComparison {self.summary()}>"

    def _repr_html_(self) -> str:
        title = "Predicted and real effects of random orders, by query"
        return result_html(title, self.summary(), self.agreement.to_frame())

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Retrained against predicted effects, one point for each order and query."""
        from influence.plotting import effect_scatter

        return effect_scatter(self.predicted, self.retrained, ax, what="order")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the comparison to one file."""
        storage.write(path, KIND, self.header(), **self.arrays())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote."""
        header, arrays = storage.read(path, KIND)
        return cls.of(header, arrays)

    def header(self) -> dict[str, Any]:
        """What a file holds besides arrays."""
        return {"method": self.method, "calibration": as_header(self.calibration)}

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays by name."""
        return {name: getattr(self, name) for name in ("orders", "predicted", "retrained")}

    @classmethod
    def of(cls, header: dict[str, Any], arrays: dict[str, Any]) -> Self:
        """From what a file holds."""
        return cls(
            arrays["orders"], arrays["predicted"], arrays["retrained"],
            header["method"], from_header(header["calibration"]),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Judged:
    """A method's answers about queries, and the real thing beside them.

    Attributes:
        answer: What the method says.
        retrain: From an order to its real effect on each query.
        method: What predicts.
        orders: Random ones to judge by, shape (n_orders, n_places).
    """

    answer: OrderAnswer
    retrain: Campaign[Change]
    method: str
    orders: Orders

    def random(self) -> OrderComparison:
        """The comparison over the random orders."""
        changes = [Reordered(order) for order in self.orders]
        real = self.retrain.effects(changes)
        answer = self.answer
        return OrderComparison(
            self.orders, answer.effects(changes), real, self.method, answer.calibration
        )


def judged(
    run: OptimizerRun, queries: Any, fitted: SampleOrder, n: int, cache: Folder, progress: bool
) -> Judged:
    """Fits a method to a run, asks it, and ties it to real retraining in n random orders.

    Raises:
        InputError: Fewer than 3 of them are different trainings.
    """
    seen = as_recorded(run).by(fitted.unit)
    check_orders(seen.places)
    drawn = judging(seen.places, SPARE * n, fitted.seed, after=fitted.calibrate)
    orders = _others(seen.places, drawn)[:n]
    if len(orders) < LEAST:
        raise InputError(
            f"Expected at least {LEAST} other orders to judge by, but this training, "
            f"{seen.places}, has only {len(orders)}; record one of more batches."
        )
    asked = seen.queries(queries)
    retrain = Campaign(
        OrderRetrainer(seen, asked, seen.losses(asked)), cache=cache, progress=progress
    )
    answer = fitted.fit(run, progress=progress).ask(asked)
    return Judged(answer, retrain, described(fitted), orders)


def _others(places: Places, orders: Orders) -> Orders:
    """Orders that are other trainings than the recorded one and each other, in their order."""
    written = places.sorted_in_steps(np.stack([places.recorded, *orders]))
    first = np.unique(written, axis=0, return_index=True)[1]
    return written[np.sort(first)[1:]]


def compare_orders(
    run: OptimizerRun,
    queries: Sequence[Any],
    method: Name | Method = "mean_field",
    *,
    n: int = 30,
    seed: int = 0,
    unit: Unit = "batch",
    cache: Folder = None,
    progress: bool = True,
) -> OrderComparison:
    """Judges predictions of orders by really training in them.

    Cost: building the method, and n + 3 retrainings.

    Args:
        run: A recorded training.
        queries: A list of batches, each a query: its loss is the mean over the batch.
        method: Of `SampleOrder`.
        n: Random orders that are trained, at least 3: other trainings than the recorded one and
            each other, drawn apart from those of calibration. Small trainings have fewer.
        seed: Of the orders and of the method.
        unit: What is put into another order: "batch" or "sample".
        cache: Folder of finished retrainings: a cut comparison goes on where it was.
        progress: Show a bar.

    Raises:
        InputError: An argument does not fit, or the training has too few different orders.
        RetrainingError: A training in another order diverged.
    """
    check_whole("n", n, least=LEAST)
    fitted = SampleOrder(method, unit=unit, seed=seed)
    return judged(run, queries, fitted, n, cache, progress).random()


def described(fitted: SampleOrder) -> str:
    """The method of a fitted estimator, as a result names it."""
    return fitted.method if isinstance(fitted.method, str) else repr(fitted.method)


def as_header(calibration: Calibration | None) -> dict[str, Any] | None:
    """A calibration as a file holds it."""
    return None if calibration is None else asdict(calibration)


def from_header(held: dict[str, Any] | None) -> Calibration | None:
    """A calibration from what a file holds."""
    if held is None:
        return None
    interval = held["interval"] and tuple(held["interval"])
    return Calibration(**{**held, "interval": interval})
