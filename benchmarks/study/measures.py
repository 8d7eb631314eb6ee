"""What is measured of a method: from its answers to numbers. Larger values are better."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.study.subject import Answers
from influence import Campaign, noise_detection, relabelling_curve, removal_curve
from influence.evaluate import compare
from influence.removal import EffectCurve

Numbers = dict[str, Any]
Floats = NDArray[np.float64]


def cost(answers: Answers) -> Numbers:
    """Seconds and memory of fit and explain, on one thread."""
    found = answers.cost
    return {"seconds": found.seconds, "peak_mib": found.peak_mib}


def lds(answers: Answers) -> Numbers:
    """Linear datamodelling score: rank correlation with the effects of half subsets."""
    return _agreement(answers, *answers.subject.half_subsets)


def loo(answers: Answers) -> Numbers:
    """Rank correlation with the effects of leaving out single rows."""
    return _agreement(answers, *answers.subject.single_rows)


def removal(answers: Answers) -> Numbers:
    """Loss of each query after removing its own top rows."""
    retrain, shares = answers.subject.of_queries, answers.subject.scale.single
    return _curve(removal_curve(answers.explained, retrain, shares), retrain)


def removal_many(answers: Answers) -> Numbers:
    """Loss of held-out rows after removing the top rows of a validation slice."""
    retrain, shares = answers.subject.of_scored, answers.subject.scale.many
    return _curve(removal_curve(answers.total, retrain, shares), retrain)


def label_edit(answers: Answers) -> Numbers:
    """Loss of each query after giving its own top rows other labels."""
    subject = answers.subject
    retrain, labels = subject.of_queries, subject.other_labels
    found = relabelling_curve(answers.explained, retrain, labels, subject.scale.single)
    return _curve(found, retrain)


def poisoning(answers: Answers) -> Numbers:
    """Loss of held-out rows after giving the top rows of a validation slice other labels."""
    subject = answers.subject
    retrain, labels = subject.of_scored, subject.other_labels
    found = relabelling_curve(answers.total, retrain, labels, subject.scale.many)
    return _curve(found, retrain)


def noise(answers: Answers) -> Numbers:
    """Share of the wrong labels found by inspecting the rows of largest self influence first."""
    wrong, inspected = answers.subject.corrupted[1], answers.subject.scale.inspected
    found = noise_detection(answers.suspicion, wrong, inspected)
    recall: list[float] = found.to_frame()["recall"].tolist()
    return {
        "value": float(np.mean(recall)),
        "fractions": list(inspected),
        "mean": recall,
        "roc_auc": found.roc_auc,
    }


MEASURES: Mapping[str, Callable[[Answers], Numbers]] = {
    one.__name__: one
    for one in (cost, lds, loo, removal, removal_many, label_edit, poisoning, noise)
}


def _agreement(answers: Answers, changes: Sequence[Any], effects: Floats) -> Numbers:
    predicted = np.stack([answers.explained.predict(change) for change in changes])
    found = compare(predicted, effects, answers.subject.seed)
    low, high = found.interval
    return {"value": found.mean, "low": low, "high": high, "failed": len(found.failed)}


def _curve(found: EffectCurve, retrain: Campaign) -> Numbers:
    """The curve, and the loss with nothing changed; `report` makes a number of it."""
    return {
        "base": float(np.mean(getattr(retrain.retrain, "base", np.nan))),
        **{name: getattr(found, name).tolist() for name in ("fractions", "mean", "low", "high")},
    }
