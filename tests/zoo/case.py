"""What the model zoo draws, and what is expected of it.

A library's table (`tests/zoo/<library>.py`) is a `Zoo`: its objectives, settings and kinds of
data, each with a verdict, and how to train. A drawn model has one objective, up to two settings
and one kind of data; its verdict is the worst of theirs. `check.py` holds it against oracles.
The README's table of support is written from the same tables.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from packaging.version import Version

from influence.errors import UnsupportedModelError
from tests.reference.loss_values import RowLoss

RARELY = 0.2  # odds of a line that is refused, against one that is answered


@dataclass(frozen=True)
class Verdict:
    """What `trace` and `LeafInfluence` must do.

    Attributes:
        kind: "exact", "leaf error" (answered, with the reason and the measured error) or "refused".
        error: The very class that is raised, by `trace` or by `fit`.
        says: Part of the reason or of the message.
    """

    kind: str
    error: type[Exception] | None = None
    says: str = ""

    @property
    def rank(self) -> int:
        return ("exact", "leaf error", "refused").index(self.kind)


EXACT = Verdict("exact")


def leaf_error(says: str) -> Verdict:
    return Verdict("leaf error", None, says)


def refused(says: str, error: type[Exception] = UnsupportedModelError) -> Verdict:
    return Verdict("refused", error, says)


@dataclass(frozen=True)
class Part:
    """One line of the table.

    Attributes:
        name: Its own; of data, a key of `tables.KINDS`.
        params: Values to draw from, by the library's parameter name.
        verdict: What is expected of a model that has it.
        only: Names of the objectives it goes with; empty for all.
        never: Names of objectives and settings it does not go with.
        since: Oldest version of the library that has it, e.g. "4.6"; "" for all.
        options: Facts for the library's `train` that are no parameters.
        shown: As the support table shows it, where that is not its name.
    """

    name: str
    params: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    verdict: Verdict = EXACT
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    since: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    shown: str = ""

    def fits(self, objective: "Objective") -> bool:
        return (not self.only or objective.name in self.only) and objective.name not in self.never


@dataclass(frozen=True)
class Objective(Part):
    """A training loss.

    Attributes:
        target: How the target is drawn, a key of `tables.TARGETS`.
        loss: From the drawn parameters to the reference loss; None where there is none per row.
    """

    target: str = "real"
    loss: Callable[[Mapping[str, Any]], RowLoss] | None = None


@dataclass(frozen=True)
class Model:
    """A drawn model before training.

    Attributes:
        library: Name of the zoo.
        seed: Seed of the draw.
        objective: Its loss.
        settings: Up to two.
        data: Kind of data, a line whose name is a key of `tables.KINDS`.
        params: Drawn parameters of all parts.
        n_train: Training rows.
        n_trees: Rounds.
        weighted: With sample weights.
    """

    library: str
    seed: int
    objective: Objective
    settings: tuple[Part, ...]
    data: Part
    params: Mapping[str, Any]
    n_train: int
    n_trees: int
    weighted: bool

    @property
    def parts(self) -> tuple[Part, ...]:
        return (self.objective, *self.settings, self.data)

    @property
    def verdicts(self) -> list[Verdict]:
        """The worst verdicts of the parts: any of them may be what is met."""
        worst = max(part.verdict.rank for part in self.parts)
        return [part.verdict for part in self.parts if part.verdict.rank == worst]

    @property
    def options(self) -> dict[str, Any]:
        return {name: value for part in self.parts for name, value in part.options.items()}

    def __str__(self) -> str:
        names = ", ".join(part.name for part in self.parts)
        weights = ", weights" if self.weighted else ""
        return (
            f"{self.library} #{self.seed}: {names}{weights}; {self.n_train} rows, {self.n_trees} "
            f"rounds, {dict(self.params)}"
        )


class LibraryRefuses(Exception):
    """The library itself does not train such a model: nothing to check."""


@dataclass(frozen=True)
class Trained:
    """A trained model with what `trace` is given, and the library's own word on it.

    Attributes:
        model: What the user holds.
        X: Training features, or the library's container, as given to `trace`.
        y: Training target; None where the container holds it.
        sample_weight: As given to `trace`; None in a container.
        X_test: Query features, or a container.
        y_test: Query target; None in a container.
        raw: The library's own raw scores of the training rows and of the queries, each of shape
            (n_rows, n_outputs), by a call that does not go through our code.
        target: Training target as numbers or class positions, for the oracle.
        target_test: The same of the queries.
        offset: Starting scores the user gave, beside the model's own start, of the training rows
            and of the queries; None if there are none.
        params: For `trace(params=...)`, what a saved file does not hold.
    """

    model: Any
    X: Any
    y: Any
    sample_weight: np.ndarray | None
    X_test: Any
    y_test: Any
    raw: tuple[np.ndarray, np.ndarray]
    target: np.ndarray
    target_test: np.ndarray
    offset: tuple[np.ndarray, np.ndarray] | None = None
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Zoo:
    """A library's table.

    Attributes:
        library: Its name.
        objectives: Its losses.
        settings: Its other parameters.
        data: Kinds of data.
        train: Trains a drawn model; raises `LibraryRefuses` where the library does.
        version: Of the installed library.
    """

    library: str
    objectives: tuple[Objective, ...]
    settings: tuple[Part, ...]
    data: tuple[Part, ...]
    train: Callable[[Model], Trained]
    version: str

    def draw(self, seed: int, must: Part | None = None) -> Model:
        """A random model; with `must`, one that has that part and none with a worse verdict.

        Lines that are refused are drawn more rarely: one of them and the whole model is refused.
        """
        name = "" if must is None else must.name
        rng = np.random.default_rng([seed, *self.library.encode(), *name.encode()])
        allowed = [
            one for one in self.parts
            if self.has(one) and (must is None or one.verdict.rank <= must.verdict.rank)
        ]  # fmt: skip

        def choose(parts: Sequence[Any]) -> Any:
            odds = np.array([RARELY if part.verdict.kind == "refused" else 1.0 for part in parts])
            return parts[rng.choice(len(parts), p=odds / odds.sum())]

        objective: Any = must
        if must not in self.objectives:
            fitting = [one for one in self.objectives if must is None or must.fits(one)]
            objective = choose([one for one in fitting if one in allowed] or fitting)
        settings: list[Part] = [must] if must is not None and must in self.settings else []
        for _ in range(rng.integers(0, 3) - len(settings)):
            fitting = [
                one for one in self.settings
                if one in allowed and one.fits(objective) and _together(one, [*settings, must])
            ]  # fmt: skip
            if fitting:
                settings.append(choose(fitting))
        data: Any = must
        if must not in self.data:
            fitting = [one for one in self.data if one in allowed and one.fits(objective)]
            data = choose([one for one in fitting if _together(one, settings)])
        params = {}
        for part in (objective, *settings, data):
            params |= {
                name: values[rng.integers(len(values))] for name, values in part.params.items()
            }
        return Model(
            library=self.library,
            seed=seed,
            objective=objective,
            settings=tuple(settings),
            data=data,
            params=params,
            n_train=int(rng.integers(40, 150)),
            n_trees=int(rng.integers(1, 6)),
            weighted=bool(rng.integers(2)),
        )

    def verdict(self, part: Part) -> Verdict:
        """What a model with that part meets at best: a setting of forests alone is refused."""
        fitting = [one for one in self.objectives if part.fits(one)]
        if part in self.objectives or not fitting:
            return part.verdict
        best = min(fitting, key=lambda one: one.verdict.rank)
        return max(part.verdict, best.verdict, key=lambda verdict: verdict.rank)

    @property
    def parts(self) -> tuple[Part, ...]:
        return (*self.objectives, *self.settings, *self.data)

    def has(self, part: Part) -> bool:
        """Whether the installed version of the library has it."""
        return Version(part.since or "0") <= Version(self.version)


def _together(part: Part, others: list[Any]) -> bool:
    """Whether a part goes with others: none forbids the other, and they draw other parameters."""
    return all(
        other is None
        or (
            part.name != other.name
            and part.name not in other.never
            and other.name not in part.never
            and not set(part.params) & set(other.params)
        )
        for other in others
    )
