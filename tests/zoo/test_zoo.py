"""Every line of every library's table, once; `make zoo` draws thousands."""

import json
from pathlib import Path

import pytest

from tests.zoo.__main__ import LIBRARIES, zoo_of
from tests.zoo.case import Part
from tests.zoo.check import Mismatch, check
from tests.zoo.support import with_table

ROOT = Path(__file__).parents[2]
LINES = [(library, part) for library in LIBRARIES for part in zoo_of(library).parts]


def ident(value):
    return value.name if isinstance(value, Part) else str(value)


@pytest.mark.parametrize(("library", "part"), LINES, ids=ident)
def test_every_line_of_the_table(library, part):
    zoo = zoo_of(library)
    if not zoo.has(part):
        pytest.skip(f"{library} {zoo.version} has no {part.name}: that came with {part.since}")
    for seed in range(20):
        model = zoo.draw(seed, must=part)
        assert part in model.parts
        found = check(zoo, model).kind
        if found != "not trained":
            expected = zoo.verdict(part).kind
            assert found == expected or (expected, found) == ("leaf error", "exact")
            return
    pytest.fail(f"{library} trains none of twenty models with {part.name}: take it off the table")


def test_the_check_can_fail():
    """A wrong verdict and a wrong reference loss are both noticed."""
    zoo = zoo_of("lightgbm")
    squared = next(one for one in zoo.objectives if one.name == "regression")
    binary = next(one for one in zoo.objectives if one.name == "binary")
    model = zoo.draw(0, must=squared)
    wrong = type(squared)(**{**vars(squared), "loss": binary.loss})
    plain = {"settings": (), "params": {"objective": "regression"}}
    with pytest.raises(Mismatch, match="losses differ"):
        check(zoo, type(model)(**{**vars(model), **plain, "objective": wrong}))
    refused = type(squared)(**{**vars(squared), "verdict": zoo_refusal(zoo)})
    with pytest.raises(Mismatch, match="expected"):
        check(zoo, type(model)(**{**vars(model), **plain, "objective": refused}))


def zoo_refusal(zoo):
    return next(part.verdict for part in zoo.objectives if part.verdict.kind == "refused")


def test_the_readme_has_the_table():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    zoos = [zoo_of(library) for library in LIBRARIES]
    assert with_table(text, zoos) == text, "run: python -m tests.zoo --table README.md"


def test_the_run_the_readme_names_found_nothing():
    told = json.loads((ROOT / "benchmarks" / "results" / "zoo.json").read_text(encoding="utf-8"))
    assert told["models"] >= 5000 and told["mismatches"] == 0
    assert {name.split()[0] for name in told if " " in name} == set(LIBRARIES)
