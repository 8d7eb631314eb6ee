"""`Campaign`: many retrainings, beside each other, each kept on disk as soon as it is done.

Retraining is dear, so a campaign that is given a folder trains nothing twice: a killed one goes on
where it was, and several processes or machines may share the folder.
"""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from influence import storage
from influence.change import (
    Change,
    Relabelled,
    Reordered,
    Reweighted,
    Without,
    check_range,
)
from influence.errors import InfluenceError, InputError, RetrainingError, StorageError
from influence.progress import track
from influence.run import fingerprint

Floats = NDArray[np.float64]
ChangeT = TypeVar("ChangeT")
Effect = Callable[[ChangeT], Floats]
OnError = Literal["raise", "nan"]

KIND = "retraining"


class Retraining(Protocol):
    """What a retrain function can tell of itself; `tree_influence.retrainer` tells all.

    Attributes:
        fingerprint: Hash of all that decides the effects besides the change: recipe, training
            data, queries. Needed for a cache. A function of your own can be given one:
            `retrain.fingerprint = "ridge, data of May"`.
        n_train: Number of training rows; changes are then checked before anything is trained.
        prefers: "threads" where these share their data and run beside each other; other workers
            are then taken only where `joblib.parallel_config` names their backend.
    """

    fingerprint: str
    n_train: int
    prefers: Literal["threads", "processes"] | None

    def __call__(self, change: Any) -> Floats: ...


@dataclass(frozen=True, eq=False)
class Campaign(Generic[ChangeT]):
    """A retrain function, and how to run it for many changes.

    Calling a campaign is calling its retrain function, except that effects already in the cache
    are read from it. So it stands wherever a retrain function does: in `agreement`,
    `removal_curve`, or a function of your own.

    Attributes:
        retrain: From a change to effects, shape (n_queries,). The same change must give the same
            effects; see `Retraining` for what else it may tell.
        cache: Folder of finished retrainings, made if it is not there; None keeps none. Every
            worker must see it. A file is written as soon as its change is done, under a name that
            is the hash of the function's fingerprint and the change. A damaged file is found by
            its checksum and trained again, alone.
        n_jobs: Retrainings at a time, through joblib; None leaves it to `joblib.parallel_config`,
            which also picks the backend (processes, threads, Dask, Ray).
        progress: Show a bar.
        on_error: What `effects` does where a change could not be trained: "raise" an error, after
            all others are done, or go on with "nan" in its place.

    Raises:
        InputError: A cache is asked for, but the function has no fingerprint.
    """

    retrain: Effect[ChangeT]
    cache: str | os.PathLike[str] | None = None
    n_jobs: int | None = None
    progress: bool = True
    on_error: OnError = "raise"
    fingerprint: str | None = field(init=False)

    def __post_init__(self) -> None:
        if self.on_error not in ("raise", "nan"):
            raise InputError(f'on_error must be "raise" or "nan", got {self.on_error!r}.')
        own = getattr(self.retrain, "fingerprint", None)
        if self.cache is not None and not isinstance(own, str):
            raise InputError(
                "A cache needs to know what the retrain function trains: expected its attribute "
                f"`fingerprint` to be a text, got {own!r}. Give it one that names recipe, data and "
                "queries (retrain.fingerprint = '...'), or leave out cache."
            )
        object.__setattr__(self, "fingerprint", own)
        if self.cache is not None:
            # Workers may have another working directory.
            object.__setattr__(self, "cache", Path(self.cache).absolute())
            try:
                Path(self.cache).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StorageError(
                    f"Expected a folder for the cache, but {self.cache} cannot be made one: "
                    f"{error}. Name another."
                ) from error

    @property
    def n_train(self) -> int | None:
        """Number of training rows, where the retrain function tells it."""
        return getattr(self.retrain, "n_train", None)

    def __call__(self, change: ChangeT) -> Floats:
        """Effects of one change, shape (n_queries,), from the cache if they are there."""
        held = self.held(change)
        if held is not None:
            return held
        effects = np.asarray(self.retrain(change), dtype=np.float64)
        if effects.ndim != 1:
            raise InputError(
                "Expected retrain to return one effect for each query, of shape (n_queries,), got "
                f"shape {effects.shape}."
            )
        if self.cache is not None:
            header = {"checksum": fingerprint(effects)}
            storage.write(self._path(change), KIND, header, effects=effects)
        return effects

    def held(self, change: ChangeT) -> Floats | None:
        """What the cache holds of a change; None if it holds nothing, or a damaged file."""
        if self.cache is None or not self._path(change).exists():
            return None
        try:
            header, arrays = storage.read(self._path(change), KIND)
        except StorageError:
            return None
        effects = arrays.get("effects")
        sound = isinstance(effects, np.ndarray) and fingerprint(effects) == header.get("checksum")
        return effects if sound else None

    def effects(self, changes: Sequence[ChangeT], n_queries: int | None = None) -> Floats:
        """Effects of many changes, equal ones trained once; shape (n_changes, n_queries).

        Args:
            changes: The changes.
            n_queries: How many effects to expect of each; other numbers are refused as soon as
                the first change is done.

        Raises:
            InputError: No changes, rows that are not there, or effects of another number.
            RetrainingError: A change failed and `on_error` is "raise", or all failed.
        """
        listed = list(changes)
        if not listed:
            raise InputError("Expected changes to retrain for, got an empty list.")
        for change in listed:
            _check(change, self.n_train)
        names = [self._name(change, i) for i, change in enumerate(listed)]
        distinct = dict(zip(reversed(names), reversed(listed), strict=True))  # the first of each
        found: dict[str, Floats] = {}
        failures: dict[str, _Failure] = {}
        for name, result in self._results(distinct):
            if isinstance(result, _Failure):
                failures[name] = result
                continue
            n_queries = len(result) if n_queries is None else n_queries
            if len(result) != n_queries:
                raise InputError(
                    f"Expected retrain to return {n_queries} effects, one for each query, got "
                    f"{len(result)}. Ask both sides about the same queries."
                )
            found[name] = result
        if failures and (self.on_error == "raise" or not found):
            raise self._failed(failures, names, listed)
        missing = np.full(n_queries or 0, np.nan)
        return np.stack([found.get(name, missing) for name in names])

    def _results(self, distinct: dict[str, ChangeT]) -> Iterator[tuple[str, "Floats | _Failure"]]:
        """What the cache holds, then what is trained, as it comes."""
        waiting: dict[str, ChangeT] = {}
        for name in reversed(distinct):
            held = self.held(distinct[name])
            if held is None:
                waiting[name] = distinct[name]
            else:
                yield name, held
        if waiting:
            done = _in_parallel(self, waiting.values(), self.n_jobs)
            yield from zip(
                waiting, track(done, "retraining", len(waiting), self.progress), strict=True
            )

    def _name(self, change: ChangeT, position: int) -> str:
        """Equal for changes that are trained once."""
        if isinstance(change, Change):
            return change_fingerprint(change)
        if self.cache is None:
            return str(position)
        raise InputError(
            "Expected changes of this toolkit (Without, Reweighted, Relabelled, Reordered), which "
            f"a cache can tell apart, got a {type(change).__name__}. Leave out cache."
        )

    def _path(self, change: ChangeT) -> Path:
        name = fingerprint("retraining 1", str(self.fingerprint), self._name(change, 0))
        return Path(self.cache or "") / f"{name}.npz"

    def _failed(
        self, failures: dict[str, "_Failure"], names: list[str], changes: list[ChangeT]
    ) -> RetrainingError:
        positions = [i for i, name in enumerate(names) if name in failures]
        first = failures[names[positions[0]]]
        shown = ", ".join(map(str, positions[:10])) + (", ..." if len(positions) > 10 else "")
        kept = "are lost; give a cache to keep them" if self.cache is None else "are in the cache"
        error = RetrainingError(
            f"Expected every change to train, but {len(positions)} of {len(changes)} failed, at "
            f"positions {shown}. The first ({_described(changes[positions[0]])}): {first.message} "
            f"The others {kept}. Leave the failed ones out, or go on without them: "
            'Campaign(retrain, ..., on_error="nan").'
        )
        error.add_note(first.trace)
        error.__cause__ = first.cause
        return error


def retrain_all(
    retrain: Effect[ChangeT],
    changes: Sequence[ChangeT],
    n_jobs: int | None = None,
    progress: bool = True,
    cache: str | os.PathLike[str] | None = None,
    *,
    on_error: OnError = "raise",
    n_queries: int | None = None,
) -> Floats:
    """Retrains for every change, through joblib; shape (n_changes, n_queries).

    Args:
        retrain: From a change to effects, shape (n_queries,); or a `Campaign`, which brings
            n_jobs, progress, cache and on_error itself.
        changes: The changes.
        n_jobs: Retrainings at a time; None leaves it to `joblib.parallel_config`.
        progress: Show a bar.
        cache: Folder that keeps every finished retraining; see `Campaign`.
        on_error: "raise" once all others are done, or "nan" in place of failed changes.
        n_queries: How many effects to expect of each change.

    Raises:
        InputError: No changes, rows that are not there, or effects of another number.
        RetrainingError: A change failed and `on_error` is "raise", or all failed.
    """
    if not isinstance(retrain, Campaign):
        retrain = Campaign(retrain, cache, n_jobs, progress, on_error)
    return retrain.effects(changes, n_queries)


def change_fingerprint(change: Change) -> str:
    """Hash of what a change changes: 32 hexadecimal digits, whatever the order of its rows."""
    kind = type(change).__name__
    if isinstance(change, Without):
        return fingerprint(kind, np.sort(change.rows))
    if isinstance(change, Reweighted):
        return fingerprint(kind, change.multipliers)
    if isinstance(change, Reordered):
        return fingerprint(kind, change.order)
    order = np.argsort(change.rows)
    return fingerprint(kind, change.rows[order], repr(change.labels[order].tolist()))


@dataclass(frozen=True)
class _Failure:
    """Why a change could not be trained; travels between processes whatever was raised."""

    message: str
    trace: str
    cause: InfluenceError | None


def _attempt(campaign: Campaign[ChangeT], change: ChangeT) -> Floats | _Failure:
    try:
        return campaign(change)
    except StorageError:  # a full disk: nothing that is trained from here on could be kept
        raise
    except Exception as error:
        cause = error if isinstance(error, InfluenceError) else None
        return _Failure(f"{type(error).__name__}: {error}", traceback.format_exc(), cause)


def _in_parallel(campaign: Campaign[ChangeT], changes: Any, n_jobs: int | None) -> Any:
    from joblib import Parallel, delayed

    prefer = getattr(campaign.retrain, "prefers", None)
    try:
        parallel = Parallel(n_jobs=n_jobs, prefer=prefer, return_as="generator")
    except ValueError:  # this backend (multiprocessing, Ray) gives results only all at once
        parallel = Parallel(n_jobs=n_jobs, prefer=prefer)
    return parallel(delayed(_attempt)(campaign, change) for change in changes)


def _check(change: Any, n_train: int | None) -> None:
    """Refuses a change of rows that are not there."""
    if n_train is None:
        return
    if isinstance(change, Without | Relabelled):
        check_range(change.rows, n_train, f"{type(change).__name__}(rows)")
    elif isinstance(change, Reweighted):
        change.removed(n_train)


def _described(change: Any) -> str:
    kind = type(change).__name__
    if not isinstance(change, Without | Relabelled):
        return kind
    return f"{kind} of {len(change.rows)} row{'' if len(change.rows) == 1 else 's'}"
