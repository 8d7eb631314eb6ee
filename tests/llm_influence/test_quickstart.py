"""The quickstart: its figures are those of the facts, and it says where its generator is."""

import re

import pytest

pytest.importorskip("transformers")

from influence.cli.main import main
from influence.errors import MissingPackageError
from llm_influence import quickstart


@pytest.fixture
def quick(monkeypatch):
    """A model of a few steps: it learns nothing, and all is shown."""
    train = quickstart.train
    monkeypatch.setattr(
        quickstart,
        "train",
        lambda *texts, seed, progress: train(*texts, seed=seed, width=16, n_steps=8),
    )


def test_it_shows_sources_tokens_and_recall(quick, capsys):
    assert main(["llm", "quickstart", "--seed", "3"]) == 0
    report = capsys.readouterr().out
    recalls = re.findall(r"^(TracIn|BM25)\(.*\) +(\d+)% +(\d+)%$", report, re.M)
    assert [name for name, *_ in recalls] == ["TracIn", "TracIn", "BM25"]
    assert all(int(four) <= int(ten) for _, four, ten in recalls)
    assert re.search(r"100% of its parameters are covered", report)
    assert re.search(r"^\[|<end>$", report, re.M)


def test_without_the_repository_it_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(quickstart, "__file__", str(tmp_path / "llm_influence" / "quickstart.py"))
    with pytest.raises(MissingPackageError, match="clone"):
        quickstart.quickstart()
