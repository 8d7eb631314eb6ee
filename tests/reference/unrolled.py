"""Training as one differentiable function of the weights of its samples: autograd does the rest."""

import torch
from torch.func import functional_call


def losses(model, weights, ids):
    """Mean next-token loss of each sequence, shape (n_sequences,)."""
    logs = functional_call(model, weights, (ids,)).logits[:, :-1].log_softmax(-1)
    return -logs.gather(2, ids[:, 1:, None])[:, :, 0].mean(dim=1)


def adam(p, gradients, state, t, rate, options):
    """v absorbs the mean of the squares of the gradients, which is more than that of their mean."""
    beta1, beta2 = options.get("betas", (0.9, 0.999))
    decay = options.get("weight_decay", 0.0)
    if options.get("decoupled"):
        p = p - rate * decay * p
    else:
        gradients = [g + decay * p for g in gradients]
    m, v = state or (0.0, 0.0)
    m = beta1 * m + (1 - beta1) * sum(gradients) / len(gradients)
    v = beta2 * v + (1 - beta2) * sum(g**2 for g in gradients) / len(gradients)
    first, second = m / (1 - beta1**t), v / (1 - beta2**t)
    second = torch.where(second > 0, second, 1.0)  # no gradient ever: m is 0 too
    return p - rate * first / (second.sqrt() + options.get("eps", 1e-8)), (m, v)


def sgd(p, gradients, state, t, rate, options):
    momentum = options.get("momentum", 0.0)
    g = sum(gradients) / len(gradients) + options.get("weight_decay", 0.0) * p
    buffer = g if t == 1 else momentum * state + (1 - options.get("dampening", 0.0)) * g
    step = g + momentum * buffer if options.get("nesterov") else buffer
    return p - rate * (step if momentum else g), buffer


def gradient(model, weights, sequences, batches, shares, clip):
    """Of the mean over batches of the sum of share times loss over their size, clipped."""
    loss = torch.stack(
        [
            (share * losses(model, weights, sequences[batch])).mean()
            for batch, share in zip(batches, shares, strict=True)
        ]
    ).mean()
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
    norm = torch.cat([g.flatten() for g in found]).norm()
    if clip is not None and float(norm.detach()) + 1e-6 > clip:
        return [g * clip / (norm + 1e-6) for g in found]
    return found


def train(model, update, options, sequences, steps, draws, rates, clip=None):
    """The trained weights, with the graph of the whole training.

    Args:
        model: Its parameters are the start.
        update: `adam` or `sgd`.
        options: Of the optimizer.
        sequences: Token ids, shape (n, length).
        steps: Of every step a list of batches, each a list of sequences.
        draws: Of every step one or more lists that hold, for every batch, the weights of its
            sequences; the step absorbs the mean over them.
        rates: Of every step.
        clip: Largest norm of a gradient.
    """
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    weights = {name: p.requires_grad_() for name, p in weights.items()}
    states = dict.fromkeys(weights)
    for t, (batches, drawn, rate) in enumerate(zip(steps, draws, rates, strict=True), start=1):
        found = [gradient(model, weights, sequences, batches, shares, clip) for shares in drawn]
        for (name, p), *gradients in zip(list(weights.items()), *found, strict=True):
            weights[name], states[name] = update(p, gradients, states[name], t, rate, options)
    return weights
