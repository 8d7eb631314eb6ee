"""The methods by short names, for commands and benchmarks: a new method is one line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Method:
    """How an estimator is made, and what it trains.

    Attributes:
        classes: Names in `tree_influence` that it is made of.
        make: From the package and a seed to an estimator.
        trainings: Models it trains.
        per_row: Models it trains for each training row, besides.
    """

    classes: tuple[str, ...]
    make: Callable[[Any, int], Any]
    trainings: int = 0
    per_row: int = 0

    @property
    def trains(self) -> bool:
        """Whether it trains models."""
        return self.trainings + self.per_row > 0

    def n_trainings(self, n_train: int) -> int:
        """How many models it trains, of so many training rows."""
        return self.trainings + self.per_row * n_train

    def estimator(self, seed: int) -> Any:
        """A new estimator; methods that draw nothing ignore the seed."""
        import tree_influence

        return self.make(tree_influence, seed)


CHANCE = "random"

METHODS: Mapping[str, Method] = {
    "boostin": Method(("BoostIn",), lambda t, seed: t.BoostIn()),
    "leaf_influence": Method(("LeafInfluence",), lambda t, seed: t.LeafInfluence()),
    "leaf_refit": Method(("LeafRefit",), lambda t, seed: t.LeafRefit()),
    "split_influence": Method(("SplitInfluence",), lambda t, seed: t.SplitInfluence()),
    "averaged_leaf": Method(
        ("Averaged", "LeafInfluence"),
        lambda t, seed: t.Averaged(t.LeafInfluence(), n_models=20, seed=seed), trainings=20,
    ),
    "averaged_split": Method(
        ("Averaged", "SplitInfluence"),
        lambda t, seed: t.Averaged(t.SplitInfluence(), n_models=20, seed=seed), trainings=20,
    ),
    "trex": Method(("TREX",), lambda t, seed: t.TREX()),
    "tree_sim": Method(("TreeSim",), lambda t, seed: t.TreeSim()),
    "subsample": Method(
        ("SubSample",), lambda t, seed: t.SubSample(n_models=100, seed=seed), trainings=100
    ),
    "loo": Method(("LOO",), lambda t, seed: t.LOO(), trainings=1, per_row=1),
    "data_shapley": Method(
        ("DataShapley",), lambda t, seed: t.DataShapley(n_permutations=5, seed=seed), per_row=5
    ),
    "input_similarity": Method(("InputSimilarity",), lambda t, seed: t.InputSimilarity()),
    "same_class": Method(("SameClass",), lambda t, seed: t.SameClass(seed)),
    "training_loss": Method(("TrainingLoss",), lambda t, seed: t.TrainingLoss()),
    CHANCE: Method(("Random",), lambda t, seed: t.Random(seed)),
}  # fmt: skip


def known_methods() -> dict[str, Method]:
    """Those whose classes `tree_influence` has."""
    import tree_influence

    there = set(tree_influence.__all__)
    return {name: method for name, method in METHODS.items() if there.issuperset(method.classes)}


def chosen_methods(names: str) -> dict[str, Method]:
    """Methods by their names, separated by commas.

    Raises:
        InputError: A name that is not known; the message lists those that are.
    """
    from influence.errors import InputError

    known = known_methods()
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if not wanted:
        raise InputError(f"Expected the name of a method or more: {', '.join(known)}.")
    for name in wanted:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(f"There is no method {name!r}; {hint}Known: {', '.join(known)}.")
    return {name: known[name] for name in wanted}
