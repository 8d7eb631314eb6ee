"""How much the study does."""

from collections.abc import Mapping
from dataclasses import dataclass

BUNDLED = ("breast_cancer", "diabetes_sklearn", "wine", "digits")
AT_HAND = (
    "adult", "bank_marketing", "bean", "california_housing", "compas", "concrete", "credit_card",
    "diabetes", "energy", "flight_delays", "german_credit", "htru2", "life", "naval", "no_show",
    "obesity_uci", "power", "protein", "spambase", "wine_quality",
)  # fmt: skip
PUBLISHED = (
    "adult", "bank_marketing", "bean", "compas", "concrete", "credit_card", "diabetes", "energy",
    "flight_delays", "german_credit", "htru2", "life", "naval", "no_show", "obesity", "power",
    "protein", "spambase", "surgical", "twitter", "vaccine", "wine_quality",
)  # fmt: skip
LIBRARIES = ("lightgbm", "xgboost", "catboost", "sklearn")
DEAR = ("loo", "data_shapley")  # a training for each row, or more


@dataclass(frozen=True)
class Scale:
    """The sizes of a study.

    Attributes:
        data: Names of data sets.
        libraries: Names of libraries.
        n_train: Most training rows; None takes 80 % of the data set.
        n_queries: Queries, drawn from the other rows.
        n_validation: Most rows of the slice (10 % of the held-out rows) whose influence is summed.
        n_scored: Most of the other held-out rows, on which the sum is judged.
        n_trees: Rounds of boosting.
        n_leaves: Most leaves of a tree.
        single: Shares of the rows removed or relabelled for each query by itself.
        many: Shares of the rows removed or relabelled for all queries together.
        subsets: Random half subsets, for the LDS.
        loo: Random rows left out one at a time.
        wrong: Share of the labels that are corrupted.
        inspected: Shares of the rows inspected for them.
    """

    data: tuple[str, ...]
    libraries: tuple[str, ...]
    n_train: int | None
    n_queries: int
    n_validation: int
    n_scored: int
    n_trees: int
    n_leaves: int
    single: tuple[float, ...]
    many: tuple[float, ...]
    subsets: int
    loo: int
    wrong: float = 0.4
    inspected: tuple[float, ...] = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)

    def n_retrainings(self) -> tuple[int, int]:
        """Of each model on each data set: what all methods share, and what each needs at most."""
        shared = self.subsets + self.loo + 5
        return shared, 2 * (self.n_queries * len(self.single) + len(self.many))


SCALES: Mapping[str, Scale] = {
    "small": Scale(
        data=("german_credit", "compas", "credit_card", "spambase", "concrete", "energy"),
        libraries=("lightgbm", "xgboost"),
        n_train=2_000,
        n_queries=20,
        n_validation=50,
        n_scored=450,
        n_trees=75,
        n_leaves=15,
        single=(0.005, 0.01, 0.02),
        many=(0.05, 0.2, 0.4),
        subsets=40,
        loo=40,
    ),
    "medium": Scale(
        data=AT_HAND,
        libraries=LIBRARIES,
        n_train=10_000,
        n_queries=50,
        n_validation=250,
        n_scored=2_250,
        n_trees=100,
        n_leaves=31,
        single=(0.001, 0.005, 0.01, 0.015, 0.02),
        many=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
        subsets=100,
        loo=100,
    ),
    "paper": Scale(
        data=PUBLISHED,
        libraries=LIBRARIES,
        n_train=None,
        n_queries=100,
        n_validation=1_000,
        n_scored=9_000,
        n_trees=100,
        n_leaves=31,
        single=(0.0, 0.001, 0.005, 0.01, 0.015, 0.02),
        many=(0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
        subsets=100,
        loo=100,
    ),
}
