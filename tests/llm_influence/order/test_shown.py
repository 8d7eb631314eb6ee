"""What notebooks show of answers about order, and their pictures."""

import numpy as np
import pandas as pd
import pytest

from influence.change import Reordered
from influence.errors import UnsupportedChangeError
from llm_influence.order import replay_calibration
from llm_influence.order.comparison import OrderComparison
from llm_influence.order.curriculum import Curriculum
from llm_influence.order.memorisation import Memorisation
from llm_influence.order.places import Places
from llm_influence.order.sample_order import Calibration, OrderAnswer
from llm_influence.token_influence import TokenInfluence

CALIBRATION = Calibration(0.75, 0.9, 3)


class Asked:
    """Answers that are a sum over places of a table, or no such sum."""

    def __init__(self, table):
        self.table = table

    def positions(self):
        if self.table is None:
            raise UnsupportedChangeError("no sum")
        return self.table


def answer(table):
    places = Places(2, np.array([0, 1]), np.array([0, 1]), np.ones(2), (0,))
    return OrderAnswer(Asked(table), places, CALIBRATION, 0)  # type: ignore[arg-type]


def test_positions_are_drawn_against_the_recorded_order():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    table = np.array([[[1.0, 3.0], [5.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    drawn = answer(table).plot().images[0].get_array()
    np.testing.assert_array_equal(drawn, [[0, 0.5], [1, 0]])  # item down, place across
    with pytest.raises(UnsupportedChangeError):
        answer(None).plot()
    pyplot.close("all")


def test_order_results_are_shown():
    effects = np.array([[0.1], [0.3], [0.2]])
    orders = np.array([[0, 1], [0, 1], [0, 1]])
    compared = OrderComparison(orders, effects, effects, "<b>mean</b>", CALIBRATION)
    found = Curriculum(Reordered([1, 0]).order, np.array([-0.5]), np.array([-0.4]), compared)
    known = Memorisation(np.eye(2), None, np.array([0, 1]), 0, "pair", CALIBRATION)
    replayed = replay_calibration.Calibration(1.1, 0.8, 0.3, 4)
    tokens = TokenInfluence(np.array([0]), [np.array([0.5])], [np.array([0.5])], pd.Index(["<a>"]))
    told = {
        CALIBRATION: "rank agreement 0.75",
        answer(None): "2 items at 2 places",
        compared: "Spearman 1.000",
        found: "better than all 3 random orders",
        known: "steps since the batch",
        replayed: "over 4 trainings",
        tokens: "&lt;a&gt;",
    }
    for result, text in told.items():
        html = result._repr_html_()
        assert text in html and "<b>" not in html and "<a>" not in html
