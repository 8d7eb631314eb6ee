"""What a call costs, and pictures of results."""

import sys
import time

import numpy as np
import pytest

from influence import agreement, leave_one_out
from influence.counterfactual import counterfactual
from influence.detection import noise_detection
from influence.errors import MissingPackageError
from influence.measuring import measured
from influence.removal import removal_curve
from tests.influence.ridge import Ridge


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the mark of the Linux kernel")
def test_memory_and_time_of_a_call():
    held = [np.ones(2**17) for _ in range(50)]  # freed, but kept by the C library
    del held
    big = measured(lambda: int(np.ones(40 * 2**17).sum()))
    assert big.result == 40 * 2**17
    assert 38 < big.peak_mib < 60
    small = measured(lambda: time.sleep(0.02))
    assert small.peak_mib < 5, "the mark of the call before was not lowered"
    assert 0.02 <= small.seconds < 1
    assert "MiB" in repr(small)
    assert list(small.to_frame()) == ["seconds", "peak_mib"]


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    from matplotlib import pyplot

    yield pyplot.subplots()[1]
    pyplot.close("all")


def results():
    ridge = Ridge()
    values = ridge.values()
    return (
        removal_curve(values, ridge, (0, 0.1, 0.5)),
        agreement(ridge, ridge, leave_one_out(24), progress=False),
        noise_detection(values[:, 0], [3, 4]),
        counterfactual(values, lambda change: np.array([len(change.rows) > 3])),
    )


@pytest.mark.parametrize("which", range(4))
def test_every_result_has_a_picture(which, axes):
    result = results()[which]
    assert result.plot(axes) is axes
    assert axes.get_xlabel() and axes.get_ylabel() and axes.lines
    assert result.plot() is not axes
    axes.figure.canvas.draw()


def test_the_curve_that_is_drawn(axes):
    curve = results()[0]
    curve.plot(axes, label="ours")
    np.testing.assert_allclose(axes.lines[0].get_xdata(), [0, 10, 50])
    np.testing.assert_allclose(axes.lines[0].get_ydata(), curve.mean)
    assert axes.get_legend().get_texts()[0].get_text() == "ours"


def test_a_missing_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"influence-toolkit\[report\]"):
        results()[0].plot()
    assert issubclass(MissingPackageError, ImportError)
