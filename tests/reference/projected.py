"""LESS, TrackStar and TRAK from their equations: plain numpy on explicit gradients.

Gradients are rows, shape (n, n_parameters); a projection is a matrix P, (width, n_parameters).
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Floats = NDArray[np.float64]


def less(
    train: Floats, query: Floats, m: Floats, v: Floats, adam: dict[str, Any], P: Floats, code: bool
) -> Floats:
    """Cosine of the query's gradient and Adam's step on the example, shape (n_train, n_queries).

    `adam` has betas, eps and step, the number of steps taken.
    """
    (b1, b2), eps, t = adam["betas"], adam["eps"], adam["step"] + 1
    values = np.empty((len(train), len(query)))
    for i, g in enumerate(train):
        m_new = b1 * m + (1 - b1) * g
        v_new = b2 * v + (1 - b2) * g**2
        if code:
            gamma = m_new / np.sqrt(v_new + eps)
        else:
            gamma = m_new / (1 - b1**t) / (np.sqrt(v_new / (1 - b2**t)) + eps)
        for q, h in enumerate(query):
            a, b = P @ gamma, P @ h
            values[i, q] = a @ b / np.sqrt((a @ a) * (b @ b))
    return values


def trackstar(
    train: Floats,
    query: Floats,
    others: Floats | None,
    scale: Floats,
    P: Floats,
    groups: list[slice],
    share: float,
    damping: float,
) -> Floats:
    """Cosine of scaled, projected and whitened gradients; `others` are mixed into the moment."""
    rows, asked = train / scale @ P.T, query / scale @ P.T
    moment = np.zeros((len(P), len(P)))
    for group in groups:
        own = rows[:, group]
        R = own.T @ own / len(own)
        ridge = damping * np.trace(R) / len(own)
        if others is not None:
            mixed = (others / scale @ P.T)[:, group]
            R = (1 - share) * R + share * mixed.T @ mixed / len(mixed)
        moment[group, group] = R + ridge * np.eye(len(R))
    cholesky = np.linalg.cholesky(np.linalg.inv(moment))  # any root gives the same products
    a, b = rows @ cholesky, asked @ cholesky
    a /= np.linalg.norm(a, axis=1, keepdims=True)
    b /= np.linalg.norm(b, axis=1, keepdims=True)
    return a @ b.T


def trak(
    train: list[Floats], query: list[Floats], p: list[Floats], P: Floats, damping: float
) -> Floats:
    """Gradients of log(p / (1 - p)) and the p of training examples, one of each for every model."""
    total = 0.0
    for own, asked in zip(train, query, strict=True):
        Phi, phi_q = own @ P.T, asked @ P.T
        ridge = damping * np.mean(np.sum(Phi**2, axis=1))
        total = total + Phi @ np.linalg.solve(Phi.T @ Phi + ridge * np.eye(len(P)), phi_q.T)
    doubt = np.mean([1 - each for each in p], axis=0)
    return doubt[:, None] * total / len(train)


def probabilities(model: nn.Module, example: dict[str, Any]) -> Tensor:
    """Probability of every target token of a text, or of its class, shape (n_targets,)."""
    ids, labels = torch.as_tensor(example["input_ids"])[None], torch.as_tensor(example["labels"])
    p = model(input_ids=ids).logits[0].double().softmax(-1)
    if labels.dim() == 0:
        return p[labels][None]
    return torch.stack([p[t - 1, labels[t]] for t in range(1, len(labels)) if labels[t] != -100])


def log_odds(model: nn.Module, example: dict[str, Any]) -> Tensor:
    """Mean over targets of log(p / (1 - p))."""
    p = probabilities(model, example)
    return (p.log() - (1 - p).log()).mean()
