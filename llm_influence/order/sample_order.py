"""`SampleOrder`: the loss after training in another order, without training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from influence.base import Estimator
from influence.change import Change, Reordered
from influence.checks import check_whole
from influence.errors import InputError, TrainingDataError, UnsupportedChangeError
from influence.evaluate import compare
from influence.progress import track
from influence.result_html import EFFECT, result_html
from llm_influence.order.few import FEW, bracketed, check_orders, counted, n_others, stated
from llm_influence.order.galerkin import Galerkin
from llm_influence.order.mean_field import MeanField
from llm_influence.order.method import Asked, Built, Floats, Method, Orders, Trained
from llm_influence.order.of_recorded import OfRecorded, as_recorded
from llm_influence.order.pair import Pair
from llm_influence.order.places import Places, Unit, check_unit
from llm_influence.order.repeats import check_repeats
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.search import judging, shifted, swapped
from llm_influence.order.taylor import Taylor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METHODS: dict[str, type[Method]] = {
    "mean_field": MeanField,
    "galerkin": Galerkin,
    "pair": Pair,
    "taylor": Taylor,
}
Name = Literal["mean_field", "galerkin", "pair", "taylor"]

TRUSTED = 0.5  # rank agreement with real retrainings from which `best` is answered


@dataclass(frozen=True)
class Calibration:
    """Predicted against really retrained losses, over a few random orders and the recorded one.

    Attributes:
        spearman: Mean over queries of the rank correlation; NaN of fewer than 2 orders. Of few it
            says little: with 3 and one query, chance reaches 0.5 in one case of five.
        slope: Of real on predicted losses over the orders, all queries together: differences
            of predictions times this have the right size.
        n_orders: Distinct orders retrained, besides the recorded one: those of `calibrate`, and
            those that the method trained while it was built (16 of "mean_field").
        interval: Ends of the 95 % bootstrap interval of `spearman`, over orders and queries; None
            of fewer than 8 orders, among which resampling finds no spread.
    """

    spearman: float
    slope: float
    n_orders: int
    interval: tuple[float, float] | None = None

    def __str__(self) -> str:
        sure = bracketed(self.interval)
        told = f"rank agreement {self.spearman:.2f}{sure}, slope {self.slope:.2f}"
        return f"{told}, {counted(self.n_orders)}"

    def _repr_html_(self) -> str:
        return result_html("Predicted against really retrained orders", f"{self}.")


@dataclass(frozen=True, eq=False)
class OrderAnswer:
    """Answers about some queries, with how far they can be trusted; made by `SampleOrder.ask`.

    Attributes:
        asked: The method's answers.
        places: Of the run.
        calibration: Agreement with real retrainings; None if none were made.
        seed: Of the search of `best`.
    """

    asked: Asked
    places: Places
    calibration: Calibration | None
    seed: int

    def _repr_html_(self) -> str:
        n_items, n_places = self.places.n_items, self.places.n_places
        title = f"Answers about other orders of {n_items} items at {n_places} places"
        return result_html(title, f"Calibration: {self.calibration or 'none'}.", EFFECT)

    def effects(self, changes: Sequence[Reordered]) -> Floats:
        """Predicted change of each query's loss under each order, shape (n_changes, n_queries)."""
        orders = np.stack([self.places.check(change) for change in changes])
        return _effects(self.asked, self.places, orders)

    def positions(self) -> Floats:
        """Effect of each item at each place against the recorded order's item at that place.

        Shape (n_queries, n_places, n_items). The effect of an order is the sum over places of the
        entry of its item; of moving and swapping items likewise.

        Raises:
            UnsupportedChangeError: The method's answers are no sums over places.
        """
        values = self.asked.positions()
        recorded = values[:, np.arange(self.places.n_places), self.places.recorded]
        return values - recorded[:, :, None]

    def swaps(self) -> Floats:
        """Effect of swapping the items of places i and j, shape (n_queries, n_places, n_places)."""
        return self._of_pairs(swapped)

    def moves(self) -> Floats:
        """Effect of moving the item of place i to place j, the others moving up; same shape."""
        return self._of_pairs(shifted)

    def best(self, *, anyway: bool = False, progress: bool = True) -> Reordered:
        """The order of least mean loss over the queries, as predicted.

        Args:
            anyway: Search although calibration is poor.
            progress: Show a bar on long work.

        Raises:
            UnsupportedChangeError: Predictions agree with real retrainings too little.
        """
        poor = self.calibration is not None and not self.calibration.spearman >= TRUSTED
        if poor and not anyway:
            raise UnsupportedChangeError(
                f"Expected predictions that rank real orders (rank agreement from {TRUSTED} on), "
                f"but here they have {self.calibration}: the order found may be chance. "
                f"{self._more()}, or search all the same (anyway=True, --anyway)."
            )
        return Reordered(self.asked.best(self.seed, progress))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Effect of each item at each place, mean over the queries: blue = the loss is lower.

        Raises:
            UnsupportedChangeError: The method's answers are no sums over places.
        """
        from influence.plotting import position_map

        return position_map(self.positions(), ax)

    def _more(self) -> str:
        """What would help where predictions do not rank real orders."""
        judged = 0 if self.calibration is None else self.calibration.n_orders
        if judged < FEW:
            others = n_others(self.places, self.seed)
            if others <= judged:
                return (
                    f"This training, {self.places}, has only {others} other "
                    f"{'order' if others == 1 else 'orders'}, too few to judge by: record one of "
                    "more batches"
                )
        return (
            "Judge by more orders (calibrate=), train with a lower learning rate or fewer steps, "
            "try another method"
        )

    def _of_pairs(self, change: Callable[[Orders, int, int], Orders]) -> Floats:
        n = self.places.n_places
        pairs = [(i, j) for i in range(n) for j in range(n)]
        orders = np.stack([change(self.places.recorded, i, j) for i, j in pairs])
        return _effects(self.asked, self.places, orders).T.reshape(-1, n, n)


class SampleOrder(OfRecorded, Estimator[OptimizerRun]):
    """Predicts the loss after training on the same batches, or samples, in another order.

    Cost of fit: what the method's class says, a training that checks whether the run repeats, and
    `calibrate` more.

    Args:
        method: A name, for its class's settings as they are, or an object of the class:
            "mean_field" (`MeanField`), "galerkin" (`Galerkin`), "pair" (`Pair`),
            "taylor" (`Taylor`).
        unit: What is put into another order: batches, or samples among all places of all batches.
        calibrate: Random orders that are really trained to judge the predictions, beside those
            that the method itself had to train; 0 skips all judging.
        seed: Of every random choice.

    Sign: positive = the order makes the query worse. Unit: of the loss.
    """

    def __init__(
        self,
        method: Name | Method = "mean_field",
        unit: Unit = "batch",
        calibrate: int = 3,
        seed: int = 0,
    ) -> None:
        check_whole("calibrate", calibrate)
        check_whole("seed", seed)
        if not isinstance(method, Method) and method not in METHODS:
            raise InputError(
                f"method must be one of {', '.join(METHODS)}, or an object of such a class, got "
                f"{method!r}."
            )
        self.method, self.calibrate, self.seed = method, calibrate, seed
        self.unit: Unit = check_unit(unit)
        self._last: tuple[str, OrderAnswer] | None = None

    def _fit(self, run: OptimizerRun) -> OptimizerRun:
        seen = as_recorded(run).by(self.unit)
        check_orders(seen.places)
        check_repeats(seen)
        method = METHODS[self.method]() if isinstance(self.method, str) else self.method
        self._built: Built = method.build(seen, self.seed, self._progress)
        fresh = judging(seen.places, self.calibrate, self.seed)
        ends = [
            seen.train(Reordered(order))
            for order in track(fresh, "calibration", self.calibrate, self._progress)
        ]
        orders, more = self._built.trained()
        self._trained = _distinct(Trained([*fresh, *orders], [*ends, *more]), seen.places)
        self._last = None
        return seen

    def ask(self, *queries: Any) -> OrderAnswer:
        """All there is to say about some queries; what they share is worked out once.

        Args:
            *queries: A list of batches, each a query: its loss is the mean over the batch.
        """
        run, asked = self._ask(*queries)
        key = asked.fingerprint
        if self._last is None or self._last[0] != key:
            answers = self._built.ask(asked)
            calibration = self._calibration(run, asked, answers) if self.calibrate else None
            self._last = key, OrderAnswer(answers, run.places, calibration, self.seed)
        return self._last[1]

    def predict(self, change: Change, *queries: Any) -> NDArray[np.float64]:
        """Effect of another order on each query's loss, shape (n_queries,).

        Args:
            change: `Reordered`: the item of every place.
            *queries: A list of batches, each a query.

        Raises:
            UnsupportedChangeError: Another kind of change.
            InputError: The order is no permutation of the recorded one.
        """
        if not isinstance(change, Reordered):
            raise UnsupportedChangeError(
                f"SampleOrder answers Reordered, got {type(change).__name__}; for other weights "
                "ask Replay, which answers Without and Reweighted."
            )
        return self.ask(*queries).effects([change])[0]

    def positions(self, queries: Any) -> Floats:
        """See `OrderAnswer.positions`: shape (n_queries, n_places, n_items)."""
        return self.ask(queries).positions()

    def best(self, queries: Any, *, anyway: bool = False, progress: bool = True) -> Reordered:
        """See `OrderAnswer.best`: the order of least mean loss over the queries."""
        return self.ask(queries).best(anyway=anyway, progress=progress)

    def _calibration(self, run: OptimizerRun, asked: BatchQueries, answers: Asked) -> Calibration:
        orders, ends = self._trained
        if len(orders) < 2:
            return Calibration(np.nan, np.nan, len(orders))
        real = np.stack([run.losses_at(weights, asked) for weights in (run.final, *ends)])
        real -= real[0]
        predicted = np.zeros_like(real)
        predicted[1:] = _effects(answers, run.places, np.stack(orders))
        if not np.isfinite(predicted).all():
            raise TrainingDataError(
                f"The predictions of method {self.method!r} are not finite on this run; its "
                "expansion diverged. Try another method or a lower learning rate."
            )
        about = predicted - predicted.mean(axis=0)
        slope = float((real * about).sum() / max((about**2).sum(), 1e-300))
        found = compare(predicted, real)
        return Calibration(found.mean, slope, len(orders), stated(found.interval, len(orders)))


def _distinct(trained: Trained, places: Places) -> Trained:
    """Each order once, and without the recorded one."""
    orders = places.sorted_in_steps(np.stack([places.recorded, *trained.orders]))
    first = np.sort(np.unique(orders, axis=0, return_index=True)[1])[1:] - 1
    return Trained([trained.orders[i] for i in first], [trained.ends[i] for i in first])


def _effects(answers: Asked, places: Places, orders: NDArray[np.int64]) -> Floats:
    """Predicted losses less that of the recorded order, shape (n_orders, n_queries)."""
    losses = answers.losses(np.concatenate([places.recorded[None], orders]))
    return losses[1:] - losses[0]
