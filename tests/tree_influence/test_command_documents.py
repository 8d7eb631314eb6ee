"""The commands of trees under --json, and what they leave when they are interrupted."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from influence.cli.main import main
from influence.tables import together
from tests.tree_influence.test_compare import folder as folder  # the fixture
from tree_influence.commands import explain, quickstart
from tree_influence.compare_commands import compare

COMMANDS = {"explain": explain, "quickstart": quickstart, "compare": compare}
ROOT = Path(__file__).parents[2]
CALL = """
import sys
from influence.cli.main import main
from tree_influence.compare_commands import compare
sys.exit(main(sys.argv[1:], {"compare": compare}))
"""


def tables(folder):
    return [
        str(folder / "model.txt"), "--target", "target", "--train", str(folder / "train.csv"),
        "--queries", str(folder / "new.csv"),
    ]  # fmt: skip


def told(capsys, *arguments):
    assert main([*arguments, "--quiet", "--json"], COMMANDS) == 0
    return json.loads(capsys.readouterr().out)


def test_explain(folder, tmp_path, capsys):
    found = told(capsys, "explain", *tables(folder), "--top", "3", "--out", str(tmp_path))
    assert found["provenance"]["method"] == "LeafInfluence"
    assert found["provenance"]["unit"] == "loss"
    assert found["provenance"]["sign"].startswith("positive = proponent")
    assert found["provenance"]["run"]["leaf_error_largest"] < 1e-5
    frame = pd.read_csv(tmp_path / "influence.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(found["results"]), frame)
    queries = pd.read_csv(tmp_path / "queries.csv")
    pd.testing.assert_frame_equal(pd.DataFrame(found["queries"]), queries)
    assert {Path(path) for path in found["written"]} == {*tmp_path.iterdir()}


def test_compare(folder, tmp_path, capsys):
    found = told(
        capsys, "compare", *tables(folder), "--n-queries", "3", "--loo", "0", "--subsets", "4",
        "--fractions", "0.05", "--methods", "boostin", "--out", str(tmp_path),
    )  # fmt: skip
    frame = pd.read_csv(tmp_path / "comparison.csv")
    assert [row["method"] for row in found["results"]] == ["boostin", "random"]
    assert [row["lds"] for row in found["results"]] == pytest.approx(frame["lds"])
    assert all(row["loo"] is None for row in found["results"])
    assert found["provenance"]["methods"]["boostin"]["unit"] == "loss"
    assert len(found["queries"]) == 3 and len(found["removal"]) == 2
    assert {Path(path) for path in found["written"]} == {*tmp_path.iterdir()}


def test_quickstart(capsys):
    found = told(capsys, "quickstart", "--seed", "1")
    assert len(found["queries"]) == found["n_wrong"] > 0
    assert {row["query"] for row in found["results"]} <= {row["query"] for row in found["queries"]}
    assert 0 < found["flipped_share"] < 0.1


@pytest.mark.parametrize("ends", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_files_come_together_or_not_at_all(ends, tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises((KeyboardInterrupt, OSError)), together(tmp_path) as part:
        (part / "a").write_text("new")
        (part / "b").write_text("ne")
        raise ends
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal")
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_comparison_keeps_what_is_trained(sent, code, folder, tmp_path):
    cache, out = tmp_path / "cache", tmp_path / "out"
    arguments = [
        "compare", *tables(folder), "--n-queries", "1", "--loo", "0", "--subsets", "3000",
        "--fractions", "", "--methods", "same_class", "--cache", str(cache), "--out", str(out),
    ]  # fmt: skip
    called = subprocess.Popen(
        [sys.executable, "-c", CALL, *arguments], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while called.poll() is None and len([*cache.glob("*.npz")]) < 3:
        time.sleep(0.01)
    called.send_signal(sent)
    _, errors = called.communicate()
    assert called.returncode == code, errors
    assert errors == (
        f"interrupted; finished retrainings are kept in {cache}; the same command goes on from "
        "there\n"
    )
    assert [*out.iterdir()] == []
    kept = [*cache.iterdir()]
    assert len(kept) >= 3 and {path.suffix for path in kept} == {".npz"}
