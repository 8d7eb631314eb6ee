"""`memorisation`: how well each batch is known at the end, by its place in training.

For batch l and place t the map holds the mean loss of l after training in a random order that has l
at t, less its mean over the places. Where an order's loss is a sum over places of A[place, item]
that is, up to a constant,

    A[t, l] - mean over other items i of A[t, i]

because the items at all other places are random. A run of several epochs has a map of each.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from influence import storage
from influence.campaign import Campaign
from influence.change import Reordered
from influence.checks import check_whole
from influence.errors import InputError, UnsupportedChangeError
from influence.progress import track
from influence.result_html import result_html
from llm_influence.order.comparison import Folder, as_header, described, from_header
from llm_influence.order.method import Floats, Method, Orders
from llm_influence.order.of_recorded import as_recorded
from llm_influence.order.places import Places
from llm_influence.order.retrain import OrderRetrainer
from llm_influence.order.run import BatchQueries, OptimizerRun
from llm_influence.order.sample_order import Calibration, Name, OrderAnswer, SampleOrder
from llm_influence.order.search import epochs_of, shuffled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KIND = "memorisation"


@dataclass(frozen=True, eq=False, repr=False)
class Memorisation:
    """Losses by place; made by `memorisation` or, by real training, `measured_memorisation`.

    Attributes:
        values: Effect on the loss of each batch of its own place, shape (n_batches, n_positions),
            against the mean over the places of an epoch: negative = better known.
        generalisation: Effect on the mean held-out loss of each batch at each place, same shape;
            None if nothing was held out.
        steps: Step of every place, shape (n_positions,).
        last: First place of the last epoch.
        method: What predicted; "measured" where it was really trained.
        calibration: Agreement of the predictions with real training; None if it was not tried.
    """

    values: Floats
    generalisation: Floats | None
    steps: NDArray[np.int64]
    last: int
    method: str
    calibration: Calibration | None = None

    @property
    def forgetting(self) -> Floats:
        """Mean over batches by the steps taken since the batch, of the last epoch: from 0 on."""
        since = self.steps[-1] - self.steps[self.last :]
        known = self.values[:, self.last :].mean(axis=0)
        return np.bincount(since, known) / np.bincount(since)

    def pearson(self, other: Self) -> float:
        """Correlation of the maps' entries, of predicted with measured ones."""
        if self.values.shape != other.values.shape:
            raise InputError(
                f"Expected maps of one run, got {self.values.shape} and {other.values.shape}."
            )
        return float(np.corrcoef(self.values.ravel(), other.values.ravel())[0, 1])

    def summary(self) -> str:
        """What was found, in words."""
        curve = self.forgetting
        return (
            f"{self.method}: {len(self.values)} batches at {self.values.shape[1]} places. A batch "
            f"of the last step has a loss {curve[0]:+.3g} against its mean over places, one of "
            f"{len(curve) - 1} steps ago {curve[-1]:+.3g}.\n"
            f"Calibration beforehand: {self.calibration or 'none'}."
        )

    def __repr__(self) -> str:
        return f"<Memorisation {self.summary()}>"

    def _repr_html_(self) -> str:
        curve = self.forgetting
        title = "How well each batch is known after training, by its place"
        lost = pd.DataFrame({"steps since the batch": np.arange(len(curve)), "its loss": curve})
        return result_html(title, self.summary(), lost)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """The map as a picture: blue = better known."""
        from influence.plotting import memorisation_map

        return memorisation_map(self.values, ax)

    def plot_generalisation(self, ax: "Axes | None" = None) -> "Axes":
        """The map of the held-out loss: blue = better there.

        Raises:
            InputError: Nothing was held out.
        """
        from influence.plotting import position_map

        if self.generalisation is None:
            raise InputError(
                "Expected a map of held-out loss, but none was asked for; memorisation(run, "
                "held_out=[batch, ...]) makes it."
            )
        return position_map(self.generalisation.T, ax, of="held-out loss")

    def plot_forgetting(self, ax: "Axes | None" = None) -> "Axes":
        """The forgetting curve."""
        from influence.plotting import forgetting_curve

        return forgetting_curve(self.forgetting, ax)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the maps to one file."""
        header = {"method": self.method, "calibration": as_header(self.calibration)}
        more = {} if self.generalisation is None else {"generalisation": self.generalisation}
        storage.write(
            path, KIND, header, values=self.values, steps=self.steps, last=self.last, **more
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads what `save` wrote."""
        header, arrays = storage.read(path, KIND)
        return cls(
            arrays["values"], arrays.get("generalisation"), arrays["steps"], int(arrays["last"]),
            header["method"], from_header(header["calibration"]),
        )  # fmt: skip


def memorisation(
    run: OptimizerRun,
    method: Name | Method = "mean_field",
    *,
    queries: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
    n_draws: int = 8,
    seed: int = 0,
    progress: bool = True,
) -> Memorisation:
    """Predicts how well each batch is known after training, by its place.

    Cost: building the method, 3 retrainings, and asking it about all batches: with "mean_field"
    about 3 retrainings for each batch. A method without effects of single places is asked about
    n_draws x n_batches x n_positions orders.

    Args:
        run: A recorded training, each of whose epochs takes every batch once.
        method: Of `SampleOrder`.
        queries: What is to be known of each batch, a batch in its place, e.g. other wordings of
            it; by default the batch itself.
        held_out: A list of batches: how their mean loss depends on each batch's place.
        n_draws: Random orders that batches are moved in, where the method needs it.
        seed: Of every random choice.
        progress: Show a bar.

    Raises:
        InputError: The run has no such epochs, or queries are not one for each batch.
    """
    check_whole("n_draws", n_draws, least=1)
    seen, own = _own(run, queries)
    fitted = SampleOrder(method, unit="batch", seed=seed).fit(seen, progress=progress)
    answer = fitted.ask(own)
    calibration = answer.calibration
    values = _map(answer, n_draws, progress)
    elsewhere = None if held_out is None else _map(fitted.ask(held_out), n_draws, progress, False)
    return replace(
        _empty(seen, described(fitted), calibration), values=values, generalisation=elsewhere
    )


def measured_memorisation(
    run: OptimizerRun,
    orders: Sequence[Reordered],
    *,
    queries: Sequence[Any] | None = None,
    held_out: Sequence[Any] | None = None,
    cache: Folder = None,
    progress: bool = True,
) -> Memorisation:
    """The map by really training: to judge `memorisation` by.

    An entry is the mean loss over the orders that have the batch at the place, less the mean over
    the places: the least-squares fit of a loss by place. Its noise is that of the other batches'
    places, over the number of such orders.

    Cost: a retraining for each order.

    Args:
        run: A recorded training, each of whose epochs takes every batch once.
        orders: `balanced_orders`, or others that have every batch at every place.
        queries: As of `memorisation`.
        held_out: As of `memorisation`.
        cache: Folder of finished retrainings: what was cut goes on where it was.
        progress: Show a bar.

    Raises:
        InputError: The run has no such epochs, or no order has some batch at some place.
    """
    seen, own = _own(run, queries)
    more = seen.queries(held_out).batches if held_out is not None else []
    asked = seen.queries([*own.batches, *more])
    retrain = Campaign(
        OrderRetrainer(seen, asked, seen.losses(asked)), cache=cache, progress=progress
    )
    taken = np.stack([seen.places.check(change) for change in orders])
    losses = retrain.effects(list(orders))
    n = seen.n_batches
    values = _conditional(losses[:, :n], taken, seen.places)
    elsewhere = None
    if more:
        mean = losses[:, n:].mean(axis=1, keepdims=True)
        elsewhere = _conditional(np.repeat(mean, n, axis=1), taken, seen.places)
    return replace(_empty(seen, "measured", None), values=values, generalisation=elsewhere)


def balanced_orders(run: OptimizerRun, n_blocks: int, seed: int = 0) -> list[Reordered]:
    """Random orders that have every batch equally often at every place of an epoch.

    Args:
        run: A recorded training, each of whose epochs takes every batch once.
        n_blocks: Blocks of n_batches orders, in which every batch takes every place once: a random
            Latin square.
        seed: Of the orders.
    """
    check_whole("n_blocks", n_blocks, least=1)
    places = _own(run, None)[0].places
    rng = np.random.default_rng(seed)
    n = places.n_items
    orders = np.repeat(places.recorded[None], n_blocks * n, axis=0)
    for epoch in epochs_of(places):
        blocks = []
        for _ in range(n_blocks):
            items, rows, columns = (rng.permutation(n) for _ in range(3))
            blocks.append(items[(rows[:, None] + columns) % n])
        orders[:, epoch] = np.concatenate(blocks)
    return [Reordered(order) for order in orders]


def _own(run: OptimizerRun, queries: Sequence[Any] | None) -> tuple[OptimizerRun, BatchQueries]:
    """The run by batches, and a query for each batch."""
    seen = as_recorded(run).by("batch")
    places, n = seen.places, seen.n_batches
    if n < 2 or places.n_places != n * len(places.epochs):
        raise InputError(
            "Expected a run whose epochs each take every one of at least 2 batches once, got "
            f"{n} batches and {places.n_places} places that are no such epochs; the place of a "
            "batch would not be one."
        )
    asked = seen.train_queries() if queries is None else seen.queries(queries)
    if asked.n_queries != n:
        raise InputError(
            f"Expected one query for each of the {n} batches, got {asked.n_queries}; what has no "
            "place in training is held_out=."
        )
    return seen, asked


def _empty(run: OptimizerRun, method: str, calibration: Calibration | None) -> Memorisation:
    """The result of a run, without maps."""
    places = run.places
    none = np.empty((run.n_batches, 0))
    return Memorisation(none, None, places.steps, places.epochs[-1], method, calibration)


def _map(answer: OrderAnswer, n_draws: int, progress: bool, own: bool = True) -> Floats:
    """The map of own losses, or of the mean over the queries, shape (n_batches, n_places)."""
    places = answer.places
    try:
        effects = answer.positions()
    except UnsupportedChangeError:
        return _moved(answer, n_draws, progress, own)
    if not own:
        effects = np.repeat(effects.mean(axis=0, keepdims=True), places.n_items, axis=0)
    at_own = np.einsum("ltl->lt", effects)
    others = (effects.sum(axis=2) - at_own) / (places.n_items - 1)
    return _centred(at_own - others, places)


def _moved(answer: OrderAnswer, n_draws: int, progress: bool, own: bool) -> Floats:
    """The map as means over random orders, in each of which every batch is moved everywhere."""
    places = answer.places
    total = np.zeros((places.n_items, places.n_places))
    bases = shuffled(places, n_draws, answer.seed)
    for base in track(bases, "memorisation", n_draws, progress):
        for epoch in epochs_of(places):
            for item in range(places.n_items):
                changes = [Reordered(order) for order in moves(base, epoch, item)]
                effects = answer.effects(changes)  # (n_places of the epoch, n_queries)
                total[item, epoch] += effects[:, item] if own else effects.mean(axis=1)
    return _centred(total / n_draws, places)


def moves(order: NDArray[np.int64], epoch: slice, item: int) -> Orders:
    """An order with an item moved to every place of an epoch, shape (n, n_places)."""
    rest = order[epoch][order[epoch] != item]
    moved = np.repeat(order[None], len(rest) + 1, axis=0)
    for place in range(len(rest) + 1):
        moved[place, epoch] = np.insert(rest, place, item)
    return moved


def _conditional(losses: Floats, orders: Orders, places: Places) -> Floats:
    """Mean of losses[:, l] over the orders that have l at t, shape (n_batches, n_places)."""
    found = np.full((places.n_items, places.n_places), np.nan)
    for place in range(places.n_places):
        for item in range(places.n_items):
            here = orders[:, place] == item
            if here.any():
                found[item, place] = losses[here, item].mean()
    missing = np.argwhere(np.isnan(found))
    if len(missing):
        item, place = missing[0]
        raise InputError(
            f"Expected orders that have every batch at every place, but none has batch {item} at "
            f"place {place} (and {len(missing) - 1} more); take balanced_orders(run, n_blocks)."
        )
    return _centred(found, places)


def _centred(values: Floats, places: Places) -> Floats:
    """Less each batch's mean over the places of an epoch."""
    centred = values.copy()
    for epoch in epochs_of(places):
        centred[:, epoch] -= values[:, epoch].mean(axis=1, keepdims=True)
    return centred
