"""Other orders of training, to first order around the average training, in all parameters."""

from functools import partial

import torch
from torch.func import hessian, jacrev, jvp


def replayed(
    order, losses, w, moments, shares, rates, taken, gradients, step, chances, decay=0.0, most=None
):
    """The queries' losses after training in an order, up to a constant.

    Gradients change linearly with the weights, the step is linear around the average one, and the
    second moment takes squares of the gradients at the average weights. Losses are quadratic.

    Args:
        order: Item of every place.
        losses: From weights to the loss of each query.
        w: Weights before the first step.
        moments: The optimizer's, likewise.
        shares: Of the places of every step.
        rates: Of every step.
        taken: Steps taken before.
        gradients: From weights to the gradients of all items, shape (n_items, n).
        step: Of `relaxed_order.adam`, without decay that is added to gradients, or `momentum`.
        chances: Share of every item in the training.
        decay: Added to gradients, times the weights.
        most: Norm that gradients are clipped to, as in `relaxed_order.train`.
    """
    place, dw = 0, torch.zeros_like(w)
    dmoments = tuple(torch.zeros_like(moment) for moment in moments)
    for t, (of_places, rate) in enumerate(zip(shares, rates, strict=True)):
        clipped = clip(gradients, most if len(of_places) == 1 else None)
        g, bends = clipped(w), jacrev(clipped)(w)
        scale, squared = 1.0, sum(share**2 for share in of_places)
        if len(of_places) > 1 and most is not None:
            mean = chances @ g
            typical = mean**2 + squared * (chances @ g**2 - mean**2)
            scale = min(1.0, most / (float(typical.sum()) ** 0.5 + 1e-6))
        g, bends = scale * g + decay * w, scale * bends
        mean = chances @ g
        square = mean**2 + squared * (chances @ g**2 - mean**2)
        dmean, dsquare = decay * dw, torch.zeros_like(w)
        for share in of_places:
            item = order[place]
            dmean = dmean + share * (g[item] - mean + bends[item] @ dw)
            dsquare = dsquare + share**2 * (g[item] ** 2 - chances @ g**2)
            dsquare = dsquare + 2 * share * (1 - share) * mean * (g[item] - mean)
            place += 1
        moved = partial(step, rate=rate, time=taken + t + 1)
        at, along = (w, moments, mean, square), (dw, dmoments, dmean, dsquare)
        ends, changes = jvp(moved, at, along)[:2]
        (w, moments), (dw, dmoments) = ends, changes
    curved = hessian(losses)(w)
    return jacrev(losses)(w) @ dw + (curved @ dw) @ dw / 2


def clip(gradients, most):
    """Each gradient clipped to a norm."""

    def clipped(w):
        g = gradients(w)
        if most is None:
            return g
        return g * (most / (g.norm(dim=1, keepdim=True) + 1e-6)).clamp(max=1.0)

    return clipped
