"""Campaigns: what is kept, what is trained again, and how failures are told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pytest

from influence import Relabelled, Reordered, Reweighted, Without, agreement, leave_one_out
from influence.campaign import Campaign, change_fingerprint, retrain_all
from influence.errors import InputError, RetrainingError, StorageError
from tests.influence.ridge import Ridge

ROOT = Path(__file__).parents[2]


def test_a_second_campaign_trains_nothing(tmp_path):
    ridge, again = Ridge(), Ridge()
    changes = [*leave_one_out(24), Relabelled([3, 1], [0.0, 1.0]), Reweighted(np.full(24, 2.0))]
    plain = retrain_all(ridge, changes, progress=False)
    first = retrain_all(ridge, changes, progress=False, cache=tmp_path)
    second = retrain_all(again, changes, progress=False, cache=tmp_path)
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(second, plain)
    assert again.calls == []
    assert len(list(tmp_path.iterdir())) == len(changes)
    other = retrain_all(Ridge(seed=1), changes, progress=False, cache=tmp_path)
    assert not np.allclose(other, plain), "another retrain function was given the same results"


def test_a_change_is_known_by_its_content():
    changes = [
        Without([]), Without([1]), Without([2]), Without([1, 2]), Reweighted([1.0, 2.0]),
        Reweighted([2.0, 1.0]), Relabelled([1], [2]), Relabelled([1], ["2"]),
        Relabelled([1], [2.0]), Relabelled([2], [2]), Relabelled([1, 2], [0, 1]),
        Relabelled([1, 2], [1, 0]), Reordered([1, 2]), Reordered([2, 1]),
    ]  # fmt: skip
    assert len({change_fingerprint(change) for change in changes}) == len(changes)
    for one, same in (
        (Without([2, 1]), Without({1, 2})),
        (Relabelled([2, 1], [5, 6]), Relabelled([1, 2], [6, 5])),
        (Relabelled([1], np.array([1], dtype=np.int8)), Relabelled([1], [1])),
    ):
        assert change_fingerprint(one) == change_fingerprint(same)


def test_equal_changes_are_trained_once():
    ridge = Ridge()
    effects = retrain_all(ridge, [Without([]), Without([1, 2]), Without([2, 1])], progress=False)
    assert len(ridge.calls) == 2
    np.testing.assert_array_equal(effects, [ridge.without([]), *[ridge.without([1, 2])] * 2])


def test_a_damaged_file_is_trained_again_alone(tmp_path):
    ridge, changes = Ridge(), leave_one_out(24)
    expected = retrain_all(ridge, changes, progress=False, cache=tmp_path)
    files = sorted(tmp_path.iterdir())
    sound = files[3].read_bytes()
    effects = sound.index(b"effects.npy") + 200
    for k, damage in enumerate(
        (b"", sound[: len(sound) // 2], sound[:effects] + b"\xff" + sound[effects + 1 :], b"x" * 99)
    ):
        files[3 + k].write_bytes(damage)
    again = Ridge()
    found = retrain_all(again, changes, progress=False, cache=tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert len(again.calls) == 4
    assert files[3].read_bytes() == sound


def test_no_flipped_bit_is_taken_for_a_result(tmp_path):
    ridge, change = Ridge(n_queries=2), Without([3])
    campaign = Campaign(ridge, tmp_path)
    expected = campaign(change)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    for i in range(0, len(sound), 7):
        path.write_bytes(sound[:i] + bytes([sound[i] ^ (1 << i % 8)]) + sound[i + 1 :])
        held = campaign.held(change)
        assert held is None or np.array_equal(held, expected), f"byte {i} changes the effects"


def test_a_failed_change_does_not_lose_the_others(tmp_path):
    ridge, changes = Ridge(fails_on=4), [*leave_one_out(24), Without([4, 9])]
    with pytest.raises(RetrainingError, match="2 of 25 failed, at positions 4, 24") as caught:
        retrain_all(ridge, changes, progress=False, cache=tmp_path)
    assert "ZeroDivisionError: this row may not go" in str(caught.value)
    assert "in the cache" in str(caught.value)
    assert "Traceback" in caught.value.__notes__[0]
    assert len(list(tmp_path.iterdir())) == 23
    mended = Ridge()
    found = retrain_all(mended, changes, progress=False, cache=tmp_path)
    assert [change.rows.tolist() for change in mended.calls] == [[4], [4, 9]]
    np.testing.assert_array_equal(found[:24], ridge.values())


def test_going_on_without_failed_changes():
    ridge, changes = Ridge(fails_on=4), leave_one_out(24)
    effects = retrain_all(ridge, changes, progress=False, on_error="nan")
    assert np.flatnonzero(np.isnan(effects).all(axis=1)).tolist() == [4]
    campaign = Campaign(ridge, on_error="nan", progress=False)
    found = agreement(lambda change: ridge.without(change.rows), campaign, changes)
    assert found.failed == (4,)
    assert "over 23 changes (1 more failed)" in repr(found)
    np.testing.assert_allclose(found.relative_error, 0, atol=1e-12)
    with pytest.raises(RetrainingError, match="1 of 1 failed"):
        campaign.effects([Without([4])])


def test_the_cause_is_kept_where_it_is_ours():
    def refuses(change):
        raise InputError("a class is gone")

    with pytest.raises(RetrainingError, match="a class is gone") as caught:
        retrain_all(refuses, leave_one_out(3), progress=False)
    assert isinstance(caught.value.__cause__, InputError)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda ridge, path: retrain_all(ridge, []), "empty list"),
        (lambda ridge, path: retrain_all(ridge, [*leave_one_out(24), Without([24])]), "row 24"),
        (lambda ridge, path: retrain_all(ridge, [Relabelled([30], [1.0])]), "row 30"),
        (lambda ridge, path: retrain_all(ridge, [Reweighted([1.0])]), "give one for each"),
        (lambda ridge, path: retrain_all(ridge, ["x"], cache=path), "tell apart, got a str"),
        (lambda ridge, path: retrain_all(lambda change: 0, [Without([])], cache=path), "needs to"),
        (lambda ridge, path: Campaign(ridge, on_error="skip"), "on_error"),
    ],
)
def test_bad_campaigns_are_refused_before_training(call, says, tmp_path):
    ridge = Ridge()
    with pytest.raises(InputError, match=says):
        call(ridge, tmp_path)
    assert ridge.calls == []


def test_effects_of_another_shape_are_refused_at_once():
    ridge = Ridge()
    with pytest.raises(InputError, match=r"return 3 effects.*got 5"):
        retrain_all(ridge, leave_one_out(24), n_jobs=1, progress=False, n_queries=3)
    assert len(ridge.calls) < 24
    with pytest.raises(RetrainingError, match=r"shape \(\)"):
        retrain_all(lambda change: 1.0, leave_one_out(3), progress=False)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Expected a folder"):
        Campaign(Ridge(), tmp_path / "file")


def test_a_full_disk_stops_the_campaign(tmp_path):
    campaign = Campaign(Ridge(), tmp_path / "gone", progress=False)
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="Could not write"):
        campaign.effects(leave_one_out(24))
    assert len(campaign.retrain.calls) == 1


@pytest.mark.parametrize("backend", ["loky", "threading", "multiprocessing"])
def test_backends_give_the_same_bits(backend, tmp_path):
    ridge, changes = Ridge(fails_on=4), leave_one_out(24)
    expected = retrain_all(ridge, changes, progress=False, on_error="nan")
    with joblib.parallel_config(backend, n_jobs=2):
        found = retrain_all(ridge, changes, progress=False, cache=tmp_path, on_error="nan")
    np.testing.assert_array_equal(found, expected)
    assert len(list(tmp_path.iterdir())) == 23, "workers must write what they finish"


def test_campaigns_at_the_same_time_share_a_folder(tmp_path):
    changes = leave_one_out(24)

    def campaign(order):
        ridge = Ridge()
        asked = [changes[i] for i in order]
        return retrain_all(ridge, asked, 1, progress=False, cache=tmp_path)[np.argsort(order)]

    orders = (np.arange(24), np.arange(24)[::-1], np.random.default_rng(0).permutation(24))
    shared = joblib.Parallel(3, backend="threading")(map(joblib.delayed(campaign), orders))
    for found in shared:
        np.testing.assert_array_equal(found, Ridge().values())
    assert len(list(tmp_path.iterdir())) == 24, "a temporary file was left behind"


def test_a_relative_folder_is_the_same_for_every_worker(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    campaign = Campaign(Ridge(), cache="here")
    monkeypatch.chdir(tmp_path.parent)
    campaign(Without([1]))
    assert len(list((tmp_path / "here").glob("*.npz"))) == 1


def test_dask_spreads_a_campaign(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    ridge, changes = Ridge(), leave_one_out(24)
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None
        ) as local,
        distributed.Client(local),
        joblib.parallel_config("dask"),
    ):
        found = retrain_all(ridge, changes, progress=False, cache=tmp_path)
    np.testing.assert_array_equal(found, ridge.values())
    assert len(list(tmp_path.iterdir())) == 24


SLOW_CAMPAIGN = """
import sys, time
from influence import leave_one_out
from influence.campaign import retrain_all
from tests.influence.ridge import Ridge

ridge = Ridge()
def slow(change):
    time.sleep(0.03)
    return ridge(change)
slow.fingerprint = ridge.fingerprint
retrain_all(slow, leave_one_out(24), progress=False, cache=sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_campaign_goes_on_where_it_was(tmp_path):
    script = [sys.executable, "-c", SLOW_CAMPAIGN, str(tmp_path)]
    running = subprocess.Popen(script, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.npz"))) < 5:
        assert running.poll() is None and time.monotonic() < deadline, "the campaign did not run"
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    n_done = len(list(tmp_path.glob("*.npz")))
    assert 5 <= n_done < 24
    ridge = Ridge()
    found = retrain_all(ridge, leave_one_out(24), progress=False, cache=tmp_path)
    np.testing.assert_array_equal(found, Ridge().values())
    assert len(ridge.calls) == 24 - n_done, "something finished was trained again"
