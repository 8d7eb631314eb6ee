"""Another order of training, replayed with gradients around the recorded path, one at a time."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def adam(
    weights: Floats, m: Floats, v: Floats, gradient: Floats, t: int, rate: float, eps: float
) -> tuple[Floats, Floats, Floats]:
    """Step t, from 1, of Adam with its usual betas."""
    m = 0.9 * m + 0.1 * gradient
    v = 0.999 * v + 0.001 * gradient**2
    moved = rate * m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + eps)
    return weights - moved, m, v


def replayed(
    gradient: Callable[[Floats, int], Floats],
    start: Floats,
    recorded: Sequence[int],
    order: Sequence[int],
    rate: float,
    eps: float,
    degree: int,
    exact_moments: bool,
) -> Floats:
    """Weights after training in an order, with elementwise differences of gradients.

    Args:
        gradient: From weights and an item to the gradient of its loss.
        start: Weights before the first step; the moments are zero.
        recorded: The item of every recorded step.
        order: The item of every step of the other order.
        rate: Of each step.
        eps: Of Adam.
        degree: Terms beside the gradients at the recorded weights.
        exact_moments: Carry the moments along the order, or take the recorded ones.
    """
    zero = np.zeros_like(start)
    path = [(start, zero, zero)]
    for t, item in enumerate(recorded):
        path.append(adam(*path[-1], gradient(path[-1][0], item), t + 1, rate, eps))
    theta = [state[0] for state in path]

    def divided(change: Floats, t: int) -> Floats:
        gap = theta[t] - theta[t - 1]
        return np.divide(change, gap, out=np.zeros_like(gap), where=gap != 0)

    def slope(t: int, item: int) -> Floats:
        if t < 1:
            return zero
        return divided(gradient(theta[t], item) - gradient(theta[t - 1], item), t)

    def bend(t: int, item: int) -> Floats:
        if t < 2:
            return zero
        return divided(slope(t, item) - slope(t - 1, item), t)

    weights, m, v = path[0]
    for t, item in enumerate(order):
        move = weights - theta[t]
        estimate = gradient(theta[t], item)
        if degree > 0:
            estimate = estimate + slope(t, item) * move
        if degree > 1:
            estimate = estimate + bend(t, item) * move**2 / 2
        if not exact_moments:
            m, v = path[t][1:]
        weights, m, v = adam(weights, m, v, estimate, t + 1, rate, eps)
    return weights
