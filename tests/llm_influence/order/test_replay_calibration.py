"""What `Replay` says of its own agreement with real trainings, and when it refuses."""

from typing import Any

import numpy as np
import pytest

from influence.change import Change, Without, random_subsets
from influence.errors import InputError, UnsupportedChangeError
from llm_influence import OptimizerRun
from llm_influence.order.replay import Replay
from llm_influence.order.replay_calibration import compared
from tests.llm_influence.order.recorded import batches, recorded

SLOPE, CORRELATION, ERROR = (
    "slope of real on predicted", "correlation with real", "relative error",
)  # fmt: skip


@pytest.mark.parametrize("unit", ["batch", "sample"])
def test_fit_states_how_real_trainings_compare(unit: Any) -> None:
    run = recorded("sgd", rate=1.0, n_batches=5).by(unit)
    asked = run.queries([run.batch(i) for i in (0, 1, 3, 4)])
    subsets = random_subsets(run.n_train, 0.5, 3, seed=7)
    base = run.losses(asked)
    real = np.array([run.losses_at(run.train(one), asked) - base for one in subsets])
    explained = Replay(unit, calibrate=0).fit(run).explain(asked)
    predicted = np.array([explained.predict(one) for one in subsets])
    x, y = ((one - one.mean(axis=0)).ravel() for one in (predicted, real))
    found = Replay(unit, seed=7).fit(run).findings_
    assert np.isclose(found[SLOPE], np.linalg.lstsq(x[:, None], y)[0][0], rtol=1e-3)
    assert np.isclose(found[CORRELATION], np.corrcoef(x, y)[0, 1], rtol=1e-3)
    assert np.isclose(found[ERROR], abs(predicted - real).sum() / abs(real).sum(), rtol=1e-3)


def test_a_run_without_curvature_in_its_effects_is_predicted_well() -> None:
    run = recorded("sgd", rate=1e-3)
    found = Replay().fit(run).findings_
    assert abs(found[SLOPE] - 1) < 0.01
    assert found[CORRELATION] > 0.999
    assert found[ERROR] < 0.01


def test_a_training_that_magnifies_small_differences_is_refused() -> None:
    run, queries = recorded(rate=3e-2, epochs=2), batches(2, seed=1)
    replay = Replay("sample").fit(run)
    message = f"the slope is {replay.findings_[SLOPE]:.2g}, .* lower learning rate .* calibrate=0"
    for ask in (
        lambda: replay.explain(queries),
        lambda: replay.explain_top(queries, k=2),
        lambda: replay.predict(Without([0]), queries),
        lambda: replay.total(queries),
        lambda: replay.at_steps(queries),
        lambda: replay.self_influence(),
    ):
        with pytest.raises(UnsupportedChangeError, match=message):
            ask()
    assert Replay("sample", calibrate=0).fit(run).total(queries).shape == (12,)


def test_refusals_go_by_the_slope_about_the_means() -> None:
    real = np.random.default_rng(0).normal(size=(3, 4))
    for size in (0.26, 1.0, 3.9):
        compared(real / size + np.arange(4), real).check()  # what all subsets share is no matter
    for predicted in (real / 0.24, real / 4.1, -real, 0 * real, np.inf * real):
        with pytest.raises(UnsupportedChangeError, match="real trainings confirm"):
            compared(predicted, real).check()


def test_averages_and_calibration_share_their_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Change | None] = []
    train = OptimizerRun.train

    def counted(run: OptimizerRun, change: Change | None = None) -> Any:
        trained.append(change)
        return train(run, change)

    monkeypatch.setattr(OptimizerRun, "train", counted)
    run = recorded("sgd").by("sample")
    for average in (0, 4):
        trained.clear()
        replay = Replay("sample", average=average, seed=3).fit(run)
        replay.total(batches(1, seed=1))
        expected = random_subsets(12, 0.5, 4, seed=3)[:3]
        assert len(trained) == 3
        for one, half in zip(trained, expected, strict=True):
            assert isinstance(one, Without)
            assert np.array_equal(one.rows, half.rows)


@pytest.mark.parametrize("calibrate", [-1, 1, 2.5])
def test_numbers_of_trainings_that_do_not_fit_are_refused(calibrate: Any) -> None:
    with pytest.raises(InputError, match="calibrate must be"):
        Replay(calibrate=calibrate)


def test_without_calibration_nothing_is_stated() -> None:
    assert set(Replay(calibrate=0).fit(recorded()).findings_) == {
        "smoothing", "path off by at most",
    }  # fmt: skip
