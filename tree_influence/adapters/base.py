"""`Adapter`: what every library must tell about a fitted model, and nothing more.

An adapter answers five questions: where do rows go (`features`, `leaves`, `offset`, `ensemble`),
what is said of them and what is that judged by (`response`, `loss`), how were the leaf values
computed (`recipe`, `row_weights`), what does the library itself say (`library_raw`,
`library_leaves`: the oracle of the parity check), and how is the model trained again (`refit`).

Rows reach an adapter in blocks, so that no copy of the whole table is made.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tree_influence.ensemble import TreeEnsemble
from tree_influence.losses import Loss, TrainingLoss
from tree_influence.rows import take

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LeafRecipe:
    """How a library computed its leaf values.

    A leaf l of tree t is stored as learning_rate[t] * theta_l + folded[t], with the
    Newton value theta_l = -G_l / (H_l + l2_l), G_l the weighted sum of the gradients of its rows
    and H_l that of their Hessians, both as the library's own loss has them.

    Attributes:
        loss: The training loss, with the library's leaf Hessian.
        learning_rate: Shrinkage of each tree, shape (n_trees,).
        l2: Regularisation added to the Hessian of each leaf, shape (n_leaves,) or, where the values
            of a vector leaf differ in it, (n_leaves, n_values); infinite for a leaf (or value) that
            is 0 whatever its rows.
        start: Raw score before the first round, shape (n_outputs,).
        folded: What the library added to all leaves of a tree, that is the start where it is
            folded into the first round and in no bias, shape (n_trees,).
        l1: G is moved towards 0 by this much before the step.
        max_step: The step is cut at this length.
        n_steps: Newton steps inside one tree; only the sum of the steps is shrunken.
        taken: Share of each step that was taken (CatBoost halves or refuses some), shape
            (n_trees, n_steps); None where every step was taken in full.
        full_hessian: theta_l = -(H_l + l2 I)^-1 G_l with the full matrix over the outputs.
        inexact_because: Why the leaves may not recompute exactly (row subsampling, bounds ...);
            empty where they must.
    """

    loss: TrainingLoss
    learning_rate: Floats
    l2: Floats
    start: Floats
    folded: Floats
    l1: float = 0.0
    max_step: float = np.inf
    n_steps: int = 1
    taken: Floats | None = None
    full_hessian: bool = False
    inexact_because: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Rows as users give them: side by side, or in a library's own container.

    Attributes:
        X: Features: an array, a table, or the container where it alone can hold them.
        y: Target, shape (n_rows,).
        sample_weight: Shape (n_rows,), or None.
        offset: Raw score that training started from in place of the model's own start (init_score,
            base_margin, baseline), less the start that the model predicts with; shape
            (n_rows, n_outputs), or None.
    """

    X: Any
    y: NDArray[np.generic]
    sample_weight: Floats | None = None
    offset: Floats | None = None

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> Self:
        """Some of the rows."""
        weight, offset = self.sample_weight, self.offset
        return type(self)(
            take(self.X, rows), self.y[rows],
            None if weight is None else weight[rows], None if offset is None else offset[rows],
        )  # fmt: skip


class Adapter(ABC):
    """A fitted model of one library.

    Attributes:
        library: Name and version, e.g. "lightgbm 4.7.0".
        ensemble: Its trees, cut where the library's own prediction stops (early stopping).
        classes: Labels in the order of the outputs ([negative, positive] for one output);
            None for regression.
        n_targets: Columns of the target; more than 1 only in regression.
        knows_labels: False where the library only numbers its classes, whatever the user calls
            them (native boosters and their files).
        takes_shares: Such a library takes probabilities in place of the classes 0 and 1, too.
        offset_replaces_start: Starting scores that are given take the place of the model's start
            (XGBoost); otherwise they add to it.
        starts_at_average: Training starts from the library's own average of the target, unless it
            is given starting scores.
        border: Raw score above which the library's predict says the second of two classes.
        feature_names: Column names the model was trained with; None if it knows none.
        space: What stands in them for a space.
        symmetric: All nodes of a level share one split, and the outcome at the root is the highest
            bit of a leaf's number.
        categorical: Columns of categories; None where the nodes of the trees tell.
        unordered: Columns that neither numbers nor categories fill (texts, embeddings).
    """

    library: str
    ensemble: TreeEnsemble
    classes: NDArray[np.generic] | None
    n_targets: int = 1
    knows_labels: bool = True
    takes_shares: bool = False
    offset_replaces_start: bool = False
    starts_at_average: bool = False
    border: float = 0.0
    feature_names: list[str] | None
    space: str = " "
    symmetric: bool = False
    categorical: tuple[int, ...] | None = None
    unordered: tuple[int, ...] = ()

    @abstractmethod
    def unpack(self, container: Any) -> GivenRows | None:
        """What a container of the library's own holds; None if it is none.

        Raises:
            InputError: The container has let go of its rows, or cannot give them back as they were.
        """

    @abstractmethod
    def features(self, X: Any) -> Any:
        """Checks features against the model and gives them the form the library takes.

        Args:
            X: A block of rows: DataFrame, array, scipy CSR matrix, or the library's container.

        Raises:
            InputError: Other columns (names, order or number), a dtype the model cannot read, or
                missing values where it refuses them.
        """

    @abstractmethod
    def leaves(self, features: Any) -> NDArray[np.integer]:
        """Leaf numbers of checked features in our numbering, shape (n_trees, n_rows)."""

    @abstractmethod
    def offset(self, features: Any) -> Floats:
        """Raw score of each row besides bias and trees, shape (n_rows, n_outputs).

        0 but for initial estimators of the user's.
        """

    @abstractmethod
    def library_raw(self, features: Any) -> Floats:
        """The library's own raw predictions, shape (n_rows, n_outputs)."""

    @abstractmethod
    def library_leaves(self, features: Any) -> NDArray[np.integer] | None:
        """The library's own leaf numbers, shape (n_rows, n_trees); None where it tells none."""

    @abstractmethod
    def loss(self) -> Loss:
        """The loss the model was trained on, per row and unweighted.

        Raises:
            UnsupportedModelError: It is not known (an objective of the user's own), or is no sum
                over rows (ranking).
        """

    @abstractmethod
    def response(self, raw: Floats) -> Floats:
        """Raw scores on the scale of the target, where that is a number.

        That is the score through the inverse of the link (exp of a Poisson regression's score),
        of the same shape, (n_rows, n_outputs).
        """

    @abstractmethod
    def row_weights(self, target: Floats, sample_weight: Floats | None) -> Floats:
        """Weight of each training row in the leaf sums, shape (n_train,).

        Sample weights times class weights; 0 for rows the library held out for early stopping.

        Args:
            target: Encoded target: values, or positions in `classes`.
            sample_weight: As given to the library's fit.
        """

    @abstractmethod
    def recipe(
        self,
        leaves: NDArray[np.integer],
        target: Floats,
        weight: Floats,
        offset: Floats | None = None,
    ) -> LeafRecipe:
        """How the leaf values were computed from these training rows.

        Args:
            leaves: Leaf of each training row, shape (n_trees, n_train).
            target: Encoded target, shape (n_train,).
            weight: As `row_weights` gives it, shape (n_train,).
            offset: As a `GivenRows` holds it, or None.

        Raises:
            UnsupportedModelError: By no formula this toolkit has; says which setting.
            MissingParameterError: A saved file does not hold what is needed.
        """

    @abstractmethod
    def refit(
        self,
        X: Any,
        y: NDArray[np.generic],
        sample_weight: Floats | None,
        offset: Floats | None = None,
    ) -> Self:
        """Trains the same recipe on other rows: as many rounds, no early stopping.

        Args:
            X: Features as the user gave them.
            y: Target as the user gave it, or positions in `classes` where the library does not
                know the labels.
            sample_weight: Sample weights, or None.
            offset: As a `GivenRows` holds it, or None.

        Raises:
            NotYetSupportedError: This model cannot be trained again here; says why.
        """

    @abstractmethod
    def unfitted(self) -> Any:
        """An estimator that trains the same recipe, as many rounds and without early stopping.

        For tables of other columns than the model's own, which `refit` refuses: the earlier steps
        of a Pipeline may give others when they are fitted again.

        Raises:
            NotYetSupportedError: The model is no estimator, so it is no step of a Pipeline.
        """

    @abstractmethod
    def refit_settings(self) -> Mapping[str, Any]:
        """The parameters `refit` trains with, by name: what tells one recipe from another.

        Raises:
            NotYetSupportedError: This model cannot be trained again here; says why.
        """
