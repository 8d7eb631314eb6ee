"""`Estimator` and the shapes a method can have.

| class        | a method writes               | a user gets                                      |
|--------------|-------------------------------|--------------------------------------------------|
| Estimator    | _fit, predict                 | fit, predict(change)                             |
| Attributor   | _fit, _add_columns, _diagonal | explain, explain_top, self_influence, predict    |
| InnerProduct | _fit, _pairs                  | the same, by sums of products of factors         |
| OneByOne     | _fit, _effects                | the same; every change is worked out by itself   |
| Relabels     | _relabelled                   | mixed into an Attributor: predict(Relabelled)    |

Classes are abstract or final: nothing implemented here is overridden.
"""

import inspect
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from influence import engine
from influence.change import Change, Relabelled, Without, leave_one_out, removed_weight
from influence.errors import InputError, NotFittedError
from influence.progress import track
from influence.result import Influence, Provenance, check_k, strongest
from influence.run import Queries, Run, blocks, name_of
from influence.top import TopInfluence

RunT = TypeVar("RunT", bound=Run)
QueriesT = TypeVar("QueriesT", bound=Queries)


class Estimator(ABC, Generic[RunT]):
    """Predicts the effect of a Change on the loss of queries."""

    unit: str = "loss"
    findings_: Mapping[str, float] = MappingProxyType({})  # of fit: stated in every result
    run_: RunT
    stores: bool = False  # fit can keep what it computes in a folder
    _store: str | os.PathLike[str] | None = None
    _progress: bool = True

    @staticmethod
    @abstractmethod
    def _trace(model: Any, *data: Any) -> RunT:
        """Makes a run of a model and its training data, so that `fit` takes either."""

    @abstractmethod
    def _fit(self, run: RunT) -> RunT | None:
        """Does the work that all queries share. Keeps what it computes in `_names`.

        Returns:
            The run as queries and changes see it, where that is another than the one given.
        """

    @abstractmethod
    def predict(self, change: Change, *queries: Any) -> NDArray[np.float64]:
        """Predicted change of each query's loss under the change, shape (n_queries,).

        Raises:
            UnsupportedChangeError: The estimator cannot answer this kind of change.
        """

    def fit(
        self,
        run: Any,
        *data: Any,
        store: str | os.PathLike[str] | None = None,
        progress: bool = True,
    ) -> Self:
        """Fits to a run, or to a model and the data it was trained on.

        Args:
            run: A run made by `trace`, or a model.
            *data: Nothing with a run; with a model, what `trace` takes after it.
            store: Folder for what is computed of the training rows, so that it is not computed
                twice; of estimators that have such a thing.
            progress: Show a bar on long work.
        """
        if store is not None and not self.stores:
            raise InputError(
                f"{type(self).__name__} keeps nothing on disk, got store={os.fspath(store)!r}; "
                "leave it out."
            )
        traced = self._trace(run, *data) if data else run
        if getattr(type(traced), "train_queries", None) is None:
            raise InputError(
                "fit takes a run, made by trace(...) or held by a recording (recording.run), or a "
                f"model with its training data; got a {type(run).__name__} alone: call "
                "fit(model, X_train, y_train)."
            )
        self._store, self._progress = store, progress
        seen = self._fit(traced)
        self.run_ = traced if seen is None else seen
        return self

    @property
    def parameters(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def __repr__(self) -> str:
        listed = ", ".join(f"{name}={value!r}" for name, value in self.parameters.items())
        return f"{type(self).__name__}({listed})"

    def _fitted_run(self) -> RunT:
        run = getattr(self, "run_", None)
        if run is None:
            raise NotFittedError(f"This {type(self).__name__} is not fitted; call fit(run) first.")
        return run

    def _ask(self, *data: Any) -> tuple[RunT, Any]:
        """The run and query data as its queries."""
        run = self._fitted_run()
        return run, run.queries(*data)

    @property
    def provenance(self) -> Provenance:
        """What results of this fitted estimator state of themselves."""
        run = self._fitted_run()
        parameters = {name: _told(value) for name, value in self.parameters.items()}
        stated = {**run.provenance, **self.findings_}
        # Where `unit` is an argument, it says what a training row is; the answers are losses.
        unit = "loss" if "unit" in parameters else self.unit
        return Provenance(type(self).__name__, parameters, unit, run.fingerprint, stated)


def _told(value: Any) -> str | float | None:
    """A parameter as a result states it: the same in every session, so without addresses."""
    if isinstance(value, str | float | int | None):
        return value
    plain = type(value).__repr__ is object.__repr__
    return name_of(value) if plain or hasattr(value, "__qualname__") else repr(value)


class Attributor(Estimator[RunT], Generic[RunT, QueriesT]):
    """An estimator whose answer is a sum over training rows: values[i, j]."""

    @abstractmethod
    def _add_columns(self, queries: QueriesT, out: NDArray[np.float64]) -> None:
        """Adds values[:, j] of these queries to out, shape (n_train, n_queries).

        Each column of `out` is contiguous.
        """

    @abstractmethod
    def _diagonal(self, train: QueriesT, rows: slice) -> NDArray[np.float64]:
        """values[i, i] for the training rows `rows`, which `train` holds as queries."""

    @abstractmethod
    def _bytes_per_value(self) -> int:
        """Memory needed for each training row and query of a block; sets its size."""

    def explain(self, *queries: Any, progress: bool = True) -> Influence:
        """Influence of every training row on every query.

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            progress: Show a bar on long work.

        Returns:
            Dense values, shape (n_train, n_queries): use `explain_top` where that is too large.
        """
        run, asked = self._ask(*queries)
        values = np.zeros((asked.n_queries, run.n_train)).T
        for block in self._tracked_blocks(asked.n_queries, progress):
            self._add_columns(asked[block], values[:, block])
        return Influence(values, run.train_index, asked.index, self.provenance)

    def explain_top(self, *queries: Any, k: int = 10, progress: bool = True) -> TopInfluence:
        """The k strongest proponents and opponents of every query, by blocks of queries.

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            k: How many of each.
            progress: Show a bar on long work.
        """
        check_k(k)
        run, asked = self._ask(*queries)
        held = min(k, run.n_train)
        rows = np.empty((2, asked.n_queries, held), dtype=np.int64)
        values = np.empty((2, asked.n_queries, held))
        for block, columns in self._blocks(asked, progress):
            for side, sign in enumerate((1.0, -1.0)):
                rows[side, block], values[side, block] = strongest(columns, held, sign)
        return TopInfluence(
            rows[0], values[0], rows[1], values[1],
            run.train_index, asked.index, self.provenance,
        )  # fmt: skip

    def self_influence(self, *, progress: bool = True) -> NDArray[np.float64]:
        """Influence of every training row on its own loss, shape (n_train,).

        Large values mark rows that the model could not have guessed from the others: mislabelled
        ones first.
        """
        run = self._fitted_run()
        train: Any = run.train_queries()
        values = np.empty(run.n_train)
        for rows in self._tracked_blocks(run.n_train, progress):
            values[rows] = self._diagonal(train[rows], rows)
        return values

    def predict(self, change: Change, *queries: Any) -> NDArray[np.float64]:
        """Effect of a change on each query's loss, shape (n_queries,).

        A change of row weights adds over rows: sum_i (1 - r_i) values[i].

        Args:
            change: `Without` or `Reweighted`; `Relabelled` where the method is a `Relabels`.
            *queries: Query data as the run takes it, e.g. X_test, y_test.

        Raises:
            UnsupportedChangeError: Another kind of change.
        """
        run, asked = self._ask(*queries)
        if isinstance(change, Relabelled) and isinstance(self, Relabels):
            effect = np.empty(asked.n_queries)
            for block in self._tracked_blocks(asked.n_queries, progress=False):
                effect[block] = self._relabelled(change, asked[block])
            return effect
        removed = removed_weight(change, run.n_train)
        effect = np.empty(asked.n_queries)
        for block, columns in self._blocks(asked, progress=False):
            effect[block] = removed @ columns
        return effect

    def explain_blocks(
        self, *queries: Any, progress: bool = True
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Influence by blocks of queries, for what needs all values but not all at a time.

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            progress: Show a bar on long work.

        Yields:
            Positions of some queries, and values of shape (n_train, n_block).
        """
        yield from self._blocks(self._ask(*queries)[1], progress)

    def _blocks(
        self, queries: QueriesT, progress: bool
    ) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        for block in self._tracked_blocks(queries.n_queries, progress):
            columns = np.zeros((block.stop - block.start, self._fitted_run().n_train)).T
            self._add_columns(queries[block], columns)
            yield block, columns

    def _tracked_blocks(self, n_queries: int, progress: bool) -> Iterator[slice]:
        size = engine.columns_per_block(self._fitted_run().n_train, self._bytes_per_value())
        listed = list(blocks(n_queries, size))
        return track(listed, type(self).__name__, len(listed), progress)


class InnerProduct(Attributor[RunT, QueriesT]):
    """An attributor whose values are a sum over training steps s of A_s B_s^T."""

    @abstractmethod
    def _pairs(self, queries: QueriesT) -> Iterable[tuple[engine.Factor[Any], Any]]:
        """(train factor, query factor) of every step."""

    def _add_columns(self, queries: QueriesT, out: NDArray[np.float64]) -> None:
        engine.contract(self._pairs(queries), out)

    def _diagonal(self, train: QueriesT, rows: slice) -> NDArray[np.float64]:
        return engine.rowwise(self._pairs(train), rows)


class Relabels(ABC):
    """What an attributor adds that also answers `Relabelled`: by a difference of its factors."""

    @abstractmethod
    def _relabelled(self, change: Relabelled, queries: Any) -> NDArray[np.float64]:
        """Effect of other labels on the loss of a block of queries, shape (n_queries,)."""


class OneByOne(Estimator[RunT], Generic[RunT, QueriesT]):
    """An estimator that works out every change by itself; effects need not add over rows."""

    @abstractmethod
    def _effects(self, queries: QueriesT) -> Callable[[Change], NDArray[np.float64]]:
        """From a change to effects on these queries, shape (n_queries,).

        What all changes share is done here, once.
        """

    def predict(self, change: Change, *queries: Any) -> NDArray[np.float64]:
        """Effect of a change on each query's loss, shape (n_queries,).

        Args:
            change: The change.
            *queries: Query data as the run takes it, e.g. X_test, y_test.

        Raises:
            UnsupportedChangeError: A kind of change that this method does not answer.
        """
        return self._effects(self._ask(*queries)[1])(change)

    def explain(self, *queries: Any, n_jobs: int | None = None, progress: bool = True) -> Influence:
        """Effect of leaving out each training row on every query, one row after another.

        Args:
            *queries: Query data as the run takes it, e.g. X_test, y_test.
            n_jobs: Changes at a time; None leaves it to `joblib.parallel_config`.
            progress: Show a bar on long work.

        Returns:
            Dense values, shape (n_train, n_queries).
        """
        run, asked = self._ask(*queries)
        values = self._leave_one_out(self._effects(asked), n_jobs, progress)
        return Influence(values, run.train_index, asked.index, self.provenance)

    def explain_top(
        self, *queries: Any, k: int = 10, n_jobs: int | None = None, progress: bool = True
    ) -> TopInfluence:
        """The k strongest proponents and opponents of every query; arguments as of `explain`."""
        check_k(k)
        run, asked = self._ask(*queries)
        values = self._leave_one_out(self._effects(asked), n_jobs, progress)
        held = min(k, run.n_train)
        return TopInfluence(
            *strongest(values, held, 1.0), *strongest(values, held, -1.0),
            run.train_index, asked.index, self.provenance,
        )  # fmt: skip

    def self_influence(
        self, *, n_jobs: int | None = None, progress: bool = True
    ) -> NDArray[np.float64]:
        """Effect of leaving out each training row on its own loss, shape (n_train,)."""
        run = self._fitted_run()
        train: Any = run.train_queries()
        return self._leave_one_out(_OwnEffect(self._effects(train)), n_jobs, progress)[:, 0]

    def _leave_one_out(
        self, effects: Callable[[Any], NDArray[np.float64]], n_jobs: int | None, progress: bool
    ) -> NDArray[np.float64]:
        from influence.campaign import retrain_all

        return retrain_all(effects, leave_one_out(self._fitted_run().n_train), n_jobs, progress)


@dataclass(frozen=True, eq=False)
class _OwnEffect:
    """From leaving out one training row to the effect on its own loss, shape (1,)."""

    effects: Callable[[Change], NDArray[np.float64]]

    @property
    def prefers(self) -> Any:
        return getattr(self.effects, "prefers", None)

    def __call__(self, change: Without) -> NDArray[np.float64]:
        return self.effects(change)[change.rows]
