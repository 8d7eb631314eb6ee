"""A projection as one matrix, and what oracles need of a run, in the order of the parameters."""

import numpy as np
import torch

from llm_influence.rows import RowMap


def matrix(run, projection):
    """P of shape (width, n_parameters): the images of unit vectors."""
    bound = RowMap(run, projection).bound
    named = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    numbers, start = {}, 0
    for name, p in named.items():
        numbers[name] = torch.arange(start, start + p.numel()).reshape(p.shape)
        start += p.numel()
    P = torch.zeros(start, bound.width, dtype=torch.float64)
    for name, block in run.coverage.blocks.items():
        places = block.arranged(numbers).flatten()
        units = torch.eye(len(places), dtype=torch.float64).reshape(len(places), *block.shape)
        images = torch.zeros(len(places), bound.width, dtype=torch.float64)
        bound.add_whole(name, units, images)
        P[places] = images
    return P.T.numpy()


def groups(run, projection):
    segments = RowMap(run, projection).bound.segments.values()
    return [slice(*span) for span in {(s.columns.start, s.columns.stop) for s in segments}]


def moment(checkpoint, name):
    """Adam's moment of all parameters, rounded to float32 as checkpoints are."""
    entries = checkpoint.adam["state"]
    flat = [entries[k][name].float().double().flatten() for k in sorted(entries)]
    return torch.cat(flat).numpy()


def adam(checkpoint):
    (group,) = checkpoint.adam["param_groups"]
    step = int(checkpoint.adam["state"][0]["step"])
    return {"betas": group["betas"], "eps": group["eps"], "step": step}


def at(model, checkpoint):
    """The model with the weights of a checkpoint."""
    model.load_state_dict(checkpoint.weights)
    return model


def close(found, expected, precision=1e-6):
    gap = np.abs(found - expected).max() / np.abs(expected).max()
    assert gap < precision, f"off by {gap:.2g} of the largest value"
