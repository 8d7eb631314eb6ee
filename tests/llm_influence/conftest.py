"""A working directory with a model and records, for the commands."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model's folder and files of records."""
    from tests.llm_influence import models
    from tests.llm_influence.command_line import texts, write
    from tests.llm_influence.small_tokenizers import MARKED, bpe

    tokenizer = bpe(template=MARKED)
    tokenizer.save_pretrained(tmp_path / "model")
    models.gpt2(vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    write(tmp_path / "train.jsonl", texts(20))
    write(tmp_path / "asked.jsonl", texts(3, seed=1))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def new_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: transformers 4 hands the precision of one Trainer on to the next."""
    from accelerate.state import AcceleratorState

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    AcceleratorState._reset_state(reset_partial_state=True)
