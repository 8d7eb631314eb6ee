"""The README's Python runs as it stands, block after block."""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from tests.llm_influence.models import gpt2
from tests.llm_influence.order.recorded import batches, plain_gpt2
from tests.llm_influence.small_tokenizers import bpe

README = Path(__file__).parent.parent / "README.md"


def python_blocks(text: str, n: int) -> list[str]:
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == n
    return blocks


def test_readme_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bunch: Any = load_breast_cancer(as_frame=True)
    X, y = bunch.data.iloc[:300], bunch.target.iloc[:300]
    names = ("X_train", "X_test", "y_train", "y_test")
    parts = train_test_split(X, y, test_size=20, random_state=0)
    scope: dict[str, Any] = dict(zip(names, parts, strict=True))
    trees, _ = README.read_text().split("## Language models\n")
    for block in python_blocks(trees, 6):
        exec(block, scope)
    assert isinstance(scope["explained"].opponents(k=5), pd.DataFrame)
    assert scope["suspicion"].shape == (280,)
    assert np.isfinite(scope["retrain"].base).all()


def test_readme_blocks_of_language_models_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokenizer = gpt2(vocab_size=300), bpe()
    records = [{"prompt": f"What is {i}?", "completion": f" It is {i}."} for i in range(9)]
    optimizer = torch.optim.AdamW(model.parameters())
    history = []
    for record in records[:2]:
        ids = torch.tensor([tokenizer(record["prompt"] + record["completion"])["input_ids"]])
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        history.append((weights, 0.01, copy.deepcopy(optimizer.state_dict())))
    scope: dict[str, Any] = {
        "model": model, "tokenizer": tokenizer, "records": records, "questions": records[:2],
        "history": history,
    }  # fmt: skip
    _, networks = README.read_text().split("## Language models\n")
    networks, _ = networks.split("## Sample order\n")
    for block in python_blocks(networks, 2):
        exec(block, scope)
    assert scope["best"].explain(scope["questions"]).values.shape == (9, 2)


def test_the_readme_block_of_sample_order_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, taken = plain_gpt2(), batches(5)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    scope: dict[str, Any] = {
        "model": model, "optimizer": optimizer, "batches": taken[:4], "validation": taken[4],
        "scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer),
    }  # fmt: skip
    _, order = README.read_text().split("## Sample order\n")
    for block in python_blocks(order, 1):
        exec(block, scope)
    assert scope["replay"].explain([taken[4]]).values.shape == (4, 1)
    assert sorted(scope["found"].order.tolist()) == [0, 1, 2, 3]
