"""Errors a user can meet. Each message says what was expected, what came, and what to do."""


class InfluenceError(Exception):
    """Any error this toolkit raises on purpose."""


class InputError(InfluenceError, ValueError):
    """The data given do not fit: shape, columns, labels, weights or values."""


class TooFewRowsError(InputError):
    """A change leaves rows that no such model can be trained on: too few, or not of all classes."""


class NotFittedError(InfluenceError, RuntimeError):
    """The estimator or model has not been fitted yet."""


class UnsupportedModelError(InfluenceError, TypeError):
    """This kind of model cannot be answered by this method, and never will be."""


class NotYetSupportedError(UnsupportedModelError):
    """This kind of model could be answered, but no code does it yet."""


class UnsupportedChangeError(InfluenceError, TypeError):
    """The run or the estimator cannot answer this Change; the message names what can."""


class MissingParameterError(InfluenceError, ValueError):
    """A saved model does not hold a training parameter that the answer needs."""


class ParityError(InfluenceError, RuntimeError):
    """Our reading of a model disagrees with the library's own predictions."""


class TrainingDataError(InfluenceError, ValueError):
    """The rows given do not reproduce the model: it was probably trained on others."""


class StorageError(InfluenceError, OSError):
    """A file is unreadable, truncated, of another kind, or cannot be written."""


class UntrustedFileError(StorageError):
    """A saved model holds types that are not known to be safe to load."""


class RetrainingError(InfluenceError, RuntimeError):
    """A library refuses to train on what a change leaves, or some changes of a campaign failed."""


class MissingPackageError(InfluenceError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""
