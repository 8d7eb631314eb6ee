"""Training a language model with weighted examples by Adam, written from the equations."""

import torch


def train(model, ids, order, weights, rates, beta1=0.9, beta2=0.99, eps=1e-8):
    """Trains the model in place on next-token prediction.

    Args:
        model: From ids (n, length) to an object with logits (n, length, n_tokens).
        ids: All sequences, shape (n, length).
        order: Sequences of every step.
        weights: Of every sequence.
        rates: Learning rate of every step.

    Returns:
        After each step: {parameter: v}, the running mean of squared gradients.
    """
    named = dict(model.named_parameters())
    m = {name: torch.zeros_like(p) for name, p in named.items()}
    v = {name: torch.zeros_like(p) for name, p in named.items()}
    history = []
    for t, (batch, rate) in enumerate(zip(order, rates, strict=True), start=1):
        loss = 0.0
        for i in batch.tolist():
            logs = model(ids[i : i + 1]).logits[0, :-1].log_softmax(-1)
            nll = -logs[torch.arange(len(logs)), ids[i, 1:]]
            loss = loss + weights[i] * nll.sum() / len(nll) / len(batch)
        gradients = torch.autograd.grad(loss, list(named.values()))
        with torch.no_grad():
            for (name, p), g in zip(named.items(), gradients, strict=True):
                m[name] = beta1 * m[name] + (1 - beta1) * g
                v[name] = beta2 * v[name] + (1 - beta2) * g**2
                first, second = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
                p -= rate * first / (second.sqrt() + eps)
        history.append(dict(v))
    return history
