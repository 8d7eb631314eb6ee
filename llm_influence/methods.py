"""The estimators that keep rows by short names, for commands: a new one is one line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from influence.errors import InputError
from llm_influence.build_record import BuildSettings

if TYPE_CHECKING:
    from llm_influence.by_rows import ByRows
    from llm_influence.projection import Kronecker

OPTIONS = ("p", "seed", "metric", "normalise", "whiten")  # of estimators; the others are the run's


@dataclass(frozen=True)
class Method:
    """How an estimator is made.

    Attributes:
        make: From settings to an estimator.
        takes: Those of `OPTIONS` that it heeds.
    """

    make: "Callable[[BuildSettings], ByRows]"
    takes: tuple[str, ...]


def estimator_of(settings: BuildSettings) -> "ByRows":
    """The estimator that settings name.

    Raises:
        InputError: An option is given that the method does not have.
    """
    method = METHODS[settings.method]
    default = {field.name: field.default for field in fields(BuildSettings)}
    for name in OPTIONS:
        if name not in method.takes and getattr(settings, name) != default[name]:
            raise InputError(f"--method {settings.method} has no --{name}; leave it out.")
    return method.make(settings)


def _tracin(settings: BuildSettings) -> "ByRows":
    from llm_influence.tracin import TracIn

    projection = _projection(settings)
    return TracIn(projection, settings.normalise, settings.metric, settings.whiten)


def _less(settings: BuildSettings) -> "ByRows":
    from llm_influence.less import LESS

    return LESS(_projection(settings))


def _trak(settings: BuildSettings) -> "ByRows":
    from llm_influence.trak import TRAK

    return TRAK(_projection(settings))


def _trackstar(settings: BuildSettings) -> "ByRows":
    from llm_influence.trackstar import TrackStar

    return TrackStar(_projection(settings))


def _datainf(settings: BuildSettings) -> "ByRows":
    from llm_influence.datainf import DataInf

    return DataInf(projection=_projection(settings))


def _projection(settings: BuildSettings) -> "Kronecker":
    from llm_influence.projection import Kronecker

    return Kronecker(settings.p, seed=settings.seed)


METHODS: Mapping[str, Method] = {
    "tracin": Method(_tracin, OPTIONS),
    "datainf": Method(_datainf, ("p", "seed")),
    "less": Method(_less, ("p", "seed")),
    "trak": Method(_trak, ("p", "seed")),
    "trackstar": Method(_trackstar, ("p", "seed")),
}
