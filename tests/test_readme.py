"""The README's Python runs as it stands, block after block."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

README = Path(__file__).parent.parent / "README.md"


def test_readme_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bunch: Any = load_breast_cancer(as_frame=True)
    X, y = bunch.data.iloc[:300], bunch.target.iloc[:300]
    names = ("X_train", "X_test", "y_train", "y_test")
    parts = train_test_split(X, y, test_size=20, random_state=0)
    scope: dict[str, Any] = dict(zip(names, parts, strict=True))
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, scope)
    assert isinstance(scope["explained"].opponents(k=5), pd.DataFrame)
    assert scope["suspicion"].shape == (280,)
    assert np.isfinite(scope["retrain"].base).all()
