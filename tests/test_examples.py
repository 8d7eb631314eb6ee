"""The scripts and notebooks in examples/ run as they stand, and show what they promise."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
TOLD = {
    "better_curriculum.py": r"better than all 16 random orders(.|\n)*Spearman 0\.[6-9]",
    "credit_decision.py": r"again without them, [4-8] of \d+ are accepted(.|\n)*[3-6]\d% are misf",
    "fine_tuned_model.py": r"Answered: Cairo(.|\n)*Max has a flat in Cairo\n"
    r"(.|\n)*Max pays taxes in Paris\n(.|\n)*[2-5] of the 5 false sentences"
    if int(version("transformers").partition(".")[0]) >= 5
    else r"Answered: \w+(.|\n)*[2-5] of the 5 false sentences",  # 4 draws other weights
    "lora_classifier.py": r"covered: 100%(.|\n)*inspected +found(.|\n)* 40 +(1[2-9]|20) ",
    "mislabelled_digits.py": r"(2[2-4]) of the 24 first suspects are mislabelled",
    "readme_picture.py": r"1[6-8] of 18 suspects are planted; (8[5-9]|9\d)\.\d% found",
}
PICTURES = {"better_curriculum.py", "mislabelled_digits.py", "readme_picture.py"}
SHOWN = {
    "credit_decision.ipynb": r"accepted, of 8(.|\n)*without random rows",
    "mislabelled_digits.ipynb": r"NoiseDetection of 179 wrong labels(.|\n)*(2[2-4]) of these 24",
}


def run(name, folder, *arguments):
    found = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], cwd=folder, capture_output=True,
        text=True, env={**os.environ, **environment(folder)},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return found.stdout


def environment(folder):
    return {"PYTHONPATH": str(EXAMPLES.parent), "TMPDIR": str(folder), "MPLBACKEND": "agg"}


def test_every_example_is_run_here_and_listed():
    scripts = {path.name for path in EXAMPLES.glob("*.py")}
    notebooks = {path.name for path in EXAMPLES.glob("*.ipynb")}
    assert scripts == TOLD.keys() and notebooks == SHOWN.keys()
    listed = re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text())
    assert set(listed) == scripts | notebooks


@pytest.mark.parametrize("name", TOLD)
def test_an_example_runs(name, tmp_path):
    said = run(name, tmp_path)
    assert re.search(TOLD[name], said), said
    if name in PICTURES:
        picture = tmp_path / name.replace(".py", ".png")
        assert picture.read_bytes().startswith(b"\x89PNG"), "no picture where it says"


def test_the_credit_decision_on_real_applicants(data_folder, tmp_path):
    said = run("credit_decision.py", tmp_path, "--real")
    assert "checking_status" in said and "are misfiled, of all rows 10%" in said, said


@pytest.mark.parametrize("name", SHOWN)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    client = pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    for key, value in {**environment(tmp_path), "IPYTHONDIR": str(tmp_path)}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("MPLBACKEND")  # the kernel draws into the notebook
    notebook = nbformat.read(EXAMPLES / name, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "stored outputs go stale"
    client.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": EXAMPLES}}
    ).execute()
    said = json.dumps([cell.get("outputs", []) for cell in notebook.cells], ensure_ascii=False)
    assert re.search(SHOWN[name], said)
    assert "image/png" in said and "text/html" in said
