"""What a method of `SampleOrder` is: it is built from a run, and asked about queries."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from influence.errors import UnsupportedChangeError
from llm_influence.order.run import BatchQueries, OptimizerRun

Floats = NDArray[np.float64]
Orders = NDArray[np.int64]


class Asked(ABC):
    """A method's answers about some queries."""

    @abstractmethod
    def losses(self, orders: Orders) -> Floats:
        """Predicted loss of each query after training in each order, up to a constant per query.

        Args:
            orders: An item for every place, shape (n_orders, n_places); any items, so that an
                order may also take an item more often than recorded.

        Returns:
            Shape (n_orders, n_queries).
        """

    @abstractmethod
    def best(self, seed: int, progress: bool) -> NDArray[np.int64]:
        """The order of least mean loss over the queries that was found, shape (n_places,).

        Epochs stay epochs, where the recorded run has some; see `Places.epochs`.
        """

    def positions(self) -> Floats:
        """Effect of each item at each place, shape (n_queries, n_places, n_items).

        An order's loss is, up to a constant and to what the method knows beyond it, the sum over
        places of the entry of its item.

        Raises:
            UnsupportedChangeError: The method's answers are no sums over places.
        """
        raise UnsupportedChangeError(
            "Expected a method whose answers are sums over places, but this one has no effect of a "
            'place by itself; ask predict about orders, or take SampleOrder("mean_field").'
        )


class Trained(NamedTuple):
    """Really trained orders.

    Attributes:
        orders: Each of shape (n_places,).
        ends: The weights that each ended in, shape (n,).
    """

    orders: list[NDArray[np.int64]]
    ends: list[Tensor]


class Built(ABC):
    """A method built from a run: what all queries share."""

    @abstractmethod
    def ask(self, queries: BatchQueries) -> Asked:
        """Answers about these queries."""

    def trained(self) -> Trained:
        """Orders that were really trained while building; none unless a method says so.

        They calibrate too, so they must enter answers only as means over all of them.
        """
        return Trained([], [])


class Method(ABC):
    """How the effect of an order is estimated; its attributes are its settings."""

    @abstractmethod
    def build(self, run: OptimizerRun, seed: int, progress: bool) -> Built:
        """Does the work that all queries share.

        Args:
            run: The run, in the unit that is asked about: `run.places` are its places.
            seed: Of every random choice.
            progress: Show a bar on long work.
        """
