"""Which laws are run over which estimators, and a number of torch's threads for a while."""

import contextlib

import pytest

from influence.testing import LAWS


def obeyed(estimators):
    """(estimator, law) pairs of a table of (maker, exempt laws), without the exemptions."""
    return [
        pytest.param(name, law, id=f"{name}-{law.__name__}")
        for name, (_, exempt) in estimators.items()
        for law in LAWS
        if law.__name__ not in exempt
    ]


@contextlib.contextmanager
def torch_threads(n):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
