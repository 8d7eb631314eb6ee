"""LightGBM's objectives: the loss of each, with its leaf Hessian, and the score it starts from."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from influence.errors import NotYetSupportedError, UnsupportedModelError
from tree_influence.adapters.base import Floats
from tree_influence.losses import (
    AbsoluteError,
    Fair,
    Huber,
    Logistic,
    Loss,
    OneVsAll,
    Quantile,
    RelativeError,
    Softmax,
    SquaredError,
    TrainingLoss,
)
from tree_influence.losses_positive import Gamma, Poisson, Tweedie
from tree_influence.losses_wrapped import (
    InFloat32,
    JudgedOnRoot,
    OnSeenTarget,
    SignedRoot,
    UnitHessian,
)

EPSILON = 1e-15  # LightGBM's kEpsilon

Number = Callable[[str], float]  # a training parameter by its name


def _same(mean: Floats, number: Number) -> Floats:
    return mean


def _log(mean: Floats, number: Number) -> Floats:
    return np.log(mean)


def _log_odds(mean: Floats, number: Number) -> Floats:
    return logit(np.clip(mean, EPSILON, 1 - EPSILON))


def _log_odds_by_sigmoid(mean: Floats, number: Number) -> Floats:
    return _log_odds(mean, number) / number("sigmoid")


def _log_expm1(mean: Floats, number: Number) -> Floats:
    return np.log(np.expm1(mean))


def _log_shares(mean: Floats, number: Number) -> Floats:
    return np.log(np.maximum(mean, EPSILON))


def _mean_of_lambda(raw: Floats) -> Floats:
    return np.logaddexp(0.0, raw)


@dataclass(frozen=True)
class Objective:
    """One of LightGBM's objectives.

    Attributes:
        loss: From its parameters, and phi of the Hessian phi p (1 - p) of a softmax, to its loss.
        start: From the weighted mean of the target, or of each class's rows, and the parameters to
            the score of `boost_from_average`; shapes (n_outputs,). None where leaves are renewed.
        of_classes: The target is a class.
        response: From raw scores to what predict says of a target that is a number.
    """

    loss: Callable[[Number, float], Loss]
    start: Callable[[Floats, Number], Floats] | None = _same
    of_classes: bool = False
    response: Callable[[Floats], Floats] = np.asarray


def _tweedie(number: Number, phi: float) -> TrainingLoss:
    power = number("tweedie_variance_power")
    return Poisson() if power == 1 else Tweedie(power)


OBJECTIVES = {
    "regression": Objective(lambda number, phi: SquaredError()),
    "huber": Objective(lambda number, phi: UnitHessian(Huber(number("alpha")))),
    "fair": Objective(lambda number, phi: Fair(number("fair_c"))),
    "poisson": Objective(
        lambda number, phi: Poisson(number("poisson_max_delta_step")), _log, response=np.exp
    ),
    "gamma": Objective(lambda number, phi: Gamma(), _log, response=np.exp),
    "tweedie": Objective(_tweedie, _log, response=np.exp),
    "cross_entropy": Objective(lambda number, phi: Logistic(), _log_odds, response=expit),
    "cross_entropy_lambda": Objective(
        lambda number, phi: Logistic(), _log_expm1, response=_mean_of_lambda
    ),
    "binary": Objective(
        lambda number, phi: Logistic(slope=number("sigmoid")), _log_odds_by_sigmoid, of_classes=True
    ),
    "multiclass": Objective(
        lambda number, phi: Softmax(hessian_scale=phi), _log_shares, of_classes=True
    ),
    "multiclassova": Objective(
        lambda number, phi: OneVsAll(slope=number("sigmoid")), _log_odds_by_sigmoid, of_classes=True
    ),
    # Leaves of these are replaced by quantiles: they judge predictions only.
    "regression_l1": Objective(lambda number, phi: AbsoluteError(), start=None),
    "quantile": Objective(lambda number, phi: Quantile(number("alpha")), start=None),
    "mape": Objective(lambda number, phi: RelativeError(), start=None),
}
RANKING = ("lambdarank", "rank_xendcg")


@dataclass(frozen=True)
class Spelled:
    """An objective as a model's header spells it ("binary sigmoid:1", "regression sqrt").

    Attributes:
        text: That line; "" for an objective of the user's.
        n_outputs: Trees of a round.
        before_3: Trained by LightGBM 2, whose softmax has another Hessian.
    """

    text: str
    n_outputs: int
    before_3: bool

    @property
    def name(self) -> str:
        return self.text.split(" ")[0]

    @property
    def of_root(self) -> bool:
        """Whether training was on the roots of the targets."""
        return "sqrt" in self.text.split(" ")

    @property
    def known(self) -> Objective:
        """Its line of the table.

        Raises:
            UnsupportedModelError: It is the user's own, or no sum over rows.
        """
        if not self.name:
            raise UnsupportedModelError(
                "Expected one of LightGBM's own objectives, got a model trained with a custom "
                "objective, whose formula it does not hold. Train with a built-in objective."
            )
        if self.name in RANKING:
            raise UnsupportedModelError(
                f"Expected an objective that is a sum over rows, got {self.name!r}: there the "
                "gradient of a row depends on all rows of its query group. Train with an objective "
                "for single rows."
            )
        if self.name not in OBJECTIVES:
            raise NotYetSupportedError(
                f"Expected one of the objectives {', '.join(OBJECTIVES)}, got {self.text!r}. Train "
                "with one of these."
            )
        return OBJECTIVES[self.name]

    def loss(self, number: Number) -> Loss:
        """The training loss, with LightGBM's leaf Hessian."""
        objective = self.known
        k = self.n_outputs
        loss = objective.loss(number, 2.0 if self.before_3 else k / max(1, k - 1))
        if objective.of_classes:
            return loss
        if isinstance(loss, TrainingLoss):  # a Dataset holds its labels in float32
            seen = SignedRoot() if self.of_root else InFloat32()
            return OnSeenTarget(loss, seen, judged=self.of_root)
        return JudgedOnRoot(loss) if self.of_root else loss

    def response(self, raw: Floats) -> Floats:
        """What predict says at raw scores of a target that is a number."""
        if self.of_root:
            return np.sign(raw) * raw**2
        return OBJECTIVES[self.name].response(raw) if self.name in OBJECTIVES else raw

    def leaf_loss(self, number: Number) -> TrainingLoss:
        """The same, where leaves follow from it.

        Raises:
            UnsupportedModelError: LightGBM replaces the leaves by quantiles.
        """
        loss = self.loss(number)
        if not isinstance(loss, TrainingLoss):
            raise UnsupportedModelError(
                f"Expected leaves that are Newton steps, got objective={self.name!r}, whose leaves "
                "LightGBM replaces by quantiles, which have no derivative. Train with another "
                "objective."
            )
        return loss

    def average(self, target: Floats, weight: Floats, number: Number) -> Floats:
        """What boost_from_average starts from, shape (n_outputs,).

        Args:
            target: Values, or positions of the classes, shape (n_rows,).
            weight: Sample weights, shape (n_rows,); LightGBM leaves label weights out here.
            number: Training parameters.
        """
        objective, own = self.known, weight.astype(np.float32).astype(np.float64)
        if objective.start is None:
            raise ValueError(f"The start of {self.name} is a quantile.")
        if self.n_outputs > 1:
            total = np.bincount(target.astype(np.int64), own, minlength=self.n_outputs)
        else:
            seen = SignedRoot() if self.of_root else InFloat32()
            total = np.array([own @ seen(target)])
        return objective.start(total / own.sum(), number)
