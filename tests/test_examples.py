"""The scripts in examples/ run as they stand, and show what they promise."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TOLD = {
    "fine_tuned_model.py": r"Cleo lives in Paris\n(.|\n)*[2-5] of the 5 false sentences",
    "lora_classifier.py": r"covered: 100%(.|\n)*inspected +found(.|\n)* 40 +(1[2-9]|20) ",
}


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == TOLD.keys()


@pytest.mark.parametrize("name", TOLD)
def test_an_example_runs(name, tmp_path):
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    assert re.search(TOLD[name], found.stdout), found.stdout
