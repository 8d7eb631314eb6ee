"""A training whose steps take weighted mixtures of items, written from the equations."""

import torch


def adam(b1, b2, eps, decay, decoupled):
    """One step of Adam or AdamW on (weights, (m, v)), with the mean square in place of g^2."""

    def step(w, moments, mean, square, rate, time):
        m, v = moments
        if decoupled:
            w = w - rate * decay * w
        else:
            square = square + 2 * mean * decay * w + (decay * w) ** 2
            mean = mean + decay * w
        m = b1 * m + (1 - b1) * mean
        v = b2 * v + (1 - b2) * square
        first, second = m / (1 - b1**time), v / (1 - b2**time)
        return w - rate * first / (second.sqrt() + eps), (m, v)

    return step


def momentum(beta):
    """One step of SGD with momentum on (weights, (buffer,))."""

    def step(w, moments, mean, square, rate, time):
        buffer = beta * moments[0] + mean
        return w - rate * buffer, (buffer,)

    return step


def train(alpha, w, moments, shares, rates, taken, gradients, step, most=None, scales=None):
    """The weights after training, and what clipping multiplied each step by.

    Args:
        alpha: Weight of every item at every place, shape (n_places, n_items).
        w: Weights before the first step.
        moments: The optimizer's, likewise.
        shares: Of the places of every step.
        rates: Of every step.
        taken: Steps taken before.
        gradients: From weights to the gradients of all items, shape (n_items, n).
        step: Of `adam` or `momentum`.
        most: Norm that gradients are clipped to: of each item in a step of one, of the root mean
            square in a step of several.
        scales: What to multiply the gradients of each step of several items by.
    """
    place, used = 0, []
    for t, (of_places, rate) in enumerate(zip(shares, rates, strict=True)):
        g = gradients(w)
        if len(of_places) == 1 and most is not None:
            g = torch.stack([x * min(1.0, most / (float(x.norm()) + 1e-6)) for x in g])
        mean, variance = torch.zeros_like(w), torch.zeros_like(w)
        for share in of_places:
            mixture = alpha[place] @ g
            mean = mean + share * mixture
            variance = variance + share**2 * (alpha[place] @ g**2 - mixture**2)
            place += 1
        square, scale = mean**2 + variance, 1.0
        if len(of_places) > 1 and most is not None:
            scale = min(1.0, most / (float(square.sum()) ** 0.5 + 1e-6))
            scale = scale if scales is None else scales[t]
        used.append(scale)
        w, moments = step(w, moments, scale * mean, scale**2 * square, rate, taken + t + 1)
    return w, used


def positions(alpha, losses, *training, most=None, difference=1e-5):
    """Central differences of the queries' losses by alpha, shape (n_queries, n_places, n_items).

    Args:
        alpha: Where the derivative is taken.
        losses: From weights to the loss of each query.
        *training: What `train` takes after alpha.
        most: Its norm; steps of several items keep the scales they have at `alpha`.
        difference: Of alpha.
    """
    _, scales = train(alpha, *training, most=most)
    found = torch.zeros(len(losses(training[0])), *alpha.shape, dtype=torch.float64)
    for p in range(alpha.shape[0]):
        for i in range(alpha.shape[1]):
            ends = []
            for sign in (1, -1):
                moved = alpha.clone()
                moved[p, i] += sign * difference
                ends.append(losses(train(moved, *training, most=most, scales=scales)[0]))
            found[:, p, i] = (ends[0] - ends[1]) / (2 * difference)
    return found
