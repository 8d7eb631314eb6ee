"""`compare_methods`: several methods judged by the same retrainings of one model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from influence.campaign import Effect, retrain_all
from influence.change import Without, leave_one_out, random_subsets
from influence.checks import check_whole
from influence.errors import InfluenceError, InputError
from influence.evaluate import Agreement, compare
from influence.measuring import measured
from influence.removal import EffectCurve, removal_curve
from influence.result import Influence, Provenance
from influence.result_html import result_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CHANCE = "random"
KEEP = 0.5
FRACTIONS = (0.01, 0.02)
READING = (
    "lds, loo: rank correlation with retraining on half subsets and without single rows; removal: "
    "change of loss without each query's top rows. Larger = better, for all three; low and high: "
    "95 % intervals."
)

Method = Influence | Callable[[], Influence]


@dataclass(frozen=True, eq=False, repr=False)
class Judged:
    """One method, and how its answer fares.

    Attributes:
        name: Its name.
        influence: Its answer; None where it refused.
        refused: Why it gave none; empty where it did.
        seconds: Time it took; NaN where its answer was given ready-made.
        peak_mib: Most memory it took, in MiB; see `measured`.
        loo: Agreement with leaving out single rows; None where not asked for.
        lds: Agreement over random half subsets (the linear datamodelling score).
        removal: Loss after removing each query's top rows.
    """

    name: str
    influence: Influence | None
    refused: str = ""
    seconds: float = float("nan")
    peak_mib: float = float("nan")
    loo: Agreement | None = None
    lds: Agreement | None = None
    removal: EffectCurve | None = None

    def __repr__(self) -> str:
        return f"<Judged {self.name}: {self.refused or self.lds or self.loo or self.removal}>"

    def _repr_html_(self) -> str:
        title = f"{self.name}: refused" if self.refused else self.name
        return result_html(title, READING, pd.DataFrame([self.to_row()]))

    def to_row(self) -> dict[str, Any]:
        """Its line in the table."""
        row: dict[str, Any] = {"method": self.name}
        for measure, found in (("lds", self.lds), ("loo", self.loo)):
            mean, ends = (np.nan, (np.nan,) * 2) if found is None else (found.mean, found.interval)
            row |= {measure: mean, f"{measure}_low": ends[0], f"{measure}_high": ends[1]}
        for name in ("mean", "low", "high"):
            column = "removal" if name == "mean" else f"removal_{name}"
            row[column] = np.nan if self.removal is None else getattr(self.removal, name)[-1]
        return {
            **row,
            "seconds": self.seconds,
            "peak_mib": self.peak_mib,
            "refused": self.refused,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """Methods beside each other, a random baseline among them.

    Attributes:
        methods: One for each method, in the order given, chance last.
        n_train: Number of training rows.
        n_queries: Number of queries.
        seed: Seed of the rows and subsets drawn, of the baseline and of the intervals.
    """

    methods: tuple[Judged, ...]
    n_train: int
    n_queries: int
    seed: int

    def __repr__(self) -> str:
        frame = self.to_frame()
        best = []
        for column in ("lds", "loo", "removal"):
            known = [row for row in frame.to_dict("records") if not np.isnan(row[column])]
            if known:
                first = max(known, key=lambda row: row[column])
                best.append(f"{column} {first['method']} {first[column]:.3g}")
        return (
            f"<Comparison of {len(frame)} methods over {self.n_train} rows and {self.n_queries} "
            f"queries; best {', best '.join(best)}>"
        )

    def _repr_html_(self) -> str:
        return result_html(repr(self)[1:-1], READING, self.to_frame())

    def __getitem__(self, name: str) -> Judged:
        """One method by name."""
        found = {judged.name: judged for judged in self.methods}
        if name not in found:
            raise InputError(f"Expected one of {', '.join(found)}, got {name!r}.")
        return found[name]

    def to_frame(self) -> pd.DataFrame:
        """One row for each method; NaN where it was not measured.

        Returns:
            `method`; `lds` and `loo`, mean rank correlations over the queries with the effects of
            half subsets and of single rows, larger = better, with the ends of their 95 % intervals
            (`lds_low`, `lds_high`, ...); `removal`, the mean change of loss after removing the
            largest fraction, larger = better, with its interval; `seconds`, `peak_mib`; `refused`.
        """
        return pd.DataFrame([judged.to_row() for judged in self.methods])

    def removal_frame(self) -> pd.DataFrame:
        """The removal curves: one row for each method and fraction."""
        curves = [
            judged.removal.to_frame().assign(method=judged.name)
            for judged in self.methods
            if judged.removal is not None
        ]
        names = ["method", "fraction", "n_rows", "mean", "low", "high"]
        return pd.concat(curves).reindex(columns=names) if curves else pd.DataFrame(columns=names)

    def plot(self) -> "Figure":
        """LDS, LOO correlation and removal curves, side by side."""
        from influence.plotting import lds_comparison, panels

        figure, axes = panels(3)
        frame = self.to_frame()
        for ax, measure, title in ((axes[0], "lds", "LDS"), (axes[1], "loo", "LOO correlation")):
            known: Any = frame[frame[measure].notna()]
            if known.empty:
                ax.set_axis_off()
                continue
            mean, low, high = (known[measure + end].to_numpy() for end in ("", "_low", "_high"))
            lds_comparison(known["method"].tolist(), mean, (low, high), ax, measure=title)
        curves = {one.name: one.removal for one in self.methods if one.removal is not None}
        for name, curve in curves.items():
            curve.plot(axes[2], name, reference=name == CHANCE)
        if not curves:
            axes[2].set_axis_off()
        elif len(curves) > 4:
            axes[2].legend(loc="upper left", bbox_to_anchor=(1.02, 1.0), frameon=False)
        return figure


def compare_methods(
    methods: Mapping[str, Method],
    retrain: Effect[Without],
    *,
    loo: int = 40,
    subsets: int = 40,
    fractions: Sequence[float] = FRACTIONS,
    seed: int = 0,
) -> Comparison:
    """Judges several methods by the same retrainings.

    All methods face the same rows and subsets, drawn by the seed. Their values are summed over the
    rows that a change leaves out. A method that raises an `InfluenceError` is listed as refused
    with its message, and the others go on. A random ranking is added as "random", unless there is
    a method of that name.

    Args:
        methods: By name, its `Influence` on the queries of retrain, or a function without arguments
            that makes it: `lambda: BoostIn().fit(run).explain(X, y)`, which is then timed.
        retrain: From a change to real effects, shape (n_queries,); best a `Campaign` with a cache,
            which goes on where it stopped and passes over changes that cannot be trained
            (`on_error="nan"`).
        loo: How many random rows to leave out, one at a time; 0 leaves this measure out.
        subsets: How many random halves of the rows to train on; 0 leaves this measure out.
        fractions: Shares of the rows to remove, those ranked first for each query; () leaves this
            measure out.
        seed: Seed of everything drawn.

    Returns:
        The comparison. `n_retrainings` says how many retrainings it takes.

    Raises:
        InputError: No method answers, one is neither an answer nor a function, answers of
            different shapes, 1 or 2 rows or subsets, or fractions outside 0 to 1.
        RetrainingError: A change could not be trained, and the campaign does not go on.
    """
    _check_sizes(loo, subsets, fractions)
    check_whole("seed", seed)
    answers = [_answer(name, method) for name, method in methods.items()]
    one = _common_shape(answers)
    if CHANCE not in methods:
        answers.append(Judged(CHANCE, _chance(one, seed)))
    n_train, n_queries = one.values.shape
    changes = {
        "loo": leave_one_out(n_train, _drawn(n_train, loo, seed)),
        "lds": random_subsets(n_train, KEEP, subsets, seed),
    }
    real = {
        name: retrain_all(retrain, listed, n_queries=n_queries)
        for name, listed in changes.items()
        if listed
    }
    judged = []
    for answer in answers:
        found: dict[str, Any] = {}
        if answer.influence is not None:
            for name, effects in real.items():
                predicted = np.stack([answer.influence.predict(one) for one in changes[name]])
                found[name] = compare(predicted, effects, seed)
            if len(fractions):
                found["removal"] = removal_curve(
                    answer.influence, retrain, sorted(fractions), seed=seed
                )
        judged.append(
            Judged(
                answer.name, answer.influence, answer.refused, answer.seconds, answer.peak_mib,
                **found,
            )
        )  # fmt: skip
    return Comparison(tuple(judged), n_train, n_queries, seed)


def n_retrainings(
    n_methods: int,
    n_queries: int,
    *,
    loo: int = 40,
    subsets: int = 40,
    fractions: Sequence[float] = FRACTIONS,
) -> dict[str, int]:
    """How many retrainings `compare_methods` takes at most, by measure.

    Args:
        n_methods: Number of methods, without the random baseline.
        n_queries: Number of queries.
        loo: As of `compare_methods`.
        subsets: As of `compare_methods`.
        fractions: As of `compare_methods`.

    Raises:
        InputError: Sizes that `compare_methods` would refuse.
    """
    _check_sizes(loo, subsets, fractions)
    n_removed = sum(fraction > 0 for fraction in fractions)
    return {"loo": loo, "lds": subsets, "removal": (n_methods + 1) * n_queries * n_removed}


def _check_sizes(loo: int, subsets: int, fractions: Sequence[float]) -> None:
    for name, n in (("loo", loo), ("subsets", subsets)):
        if n != 0 and n < 3:
            raise InputError(f"{name} must be 0, or 3 or more for a correlation, got {n}.")
    if not all(0 <= fraction <= 1 for fraction in fractions):
        raise InputError(f"fractions must be shares between 0 and 1, got {list(fractions)}.")


def _answer(name: str, method: Method) -> Judged:
    """A method's values, what they cost, or why there are none."""
    if isinstance(method, Influence):
        return Judged(name, method)
    if not callable(method):
        raise InputError(
            f"Expected an Influence, or a function without arguments that makes one, for {name!r}, "
            f"got a {type(method).__name__}: give lambda: estimator.fit(run).explain(X, y)."
        )
    try:
        found = measured(method)
        influence = found.result
        if not isinstance(influence, Influence):
            raise InputError(f"Expected an Influence, got a {type(influence).__name__}.")
        if not np.isfinite(influence.values).all():
            raise InputError("Expected finite values, but some are not.")
    except InfluenceError as error:
        return Judged(name, None, f"{type(error).__name__}: {error}")
    return Judged(name, influence, "", found.seconds, found.peak_mib)


def _common_shape(answers: list[Judged]) -> Influence:
    """One of the answers, all of which are of the same rows and queries."""
    given = {one.name: one.influence for one in answers if one.influence is not None}
    if not given:
        reasons = "; ".join(f"{one.name}: {one.refused}" for one in answers) or "none was given"
        raise InputError(f"Expected a method that answers for this model, but {reasons}")
    shapes = {name: influence.values.shape for name, influence in given.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"Expected methods asked about the same rows and queries, got {shapes}.")
    return next(iter(given.values()))


def _chance(like: Influence, seed: int) -> Influence:
    """Normal values of the shape of another answer."""
    values = np.random.default_rng([seed, 1]).standard_normal(like.values.shape)
    source = Provenance("chance", {"seed": seed}, "similarity", like.provenance.fingerprint)
    return Influence(values, like.train_index, like.query_index, source)


def _drawn(n_train: int, n: int, seed: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return sorted(rng.choice(n_train, min(n, n_train), replace=False).tolist())
