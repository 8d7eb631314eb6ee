"""Projections keep inner products on average, in every way that sides and gradients come."""

import hashlib

import numpy as np
import pytest
import torch
from torch import nn

from influence.errors import InputError
from llm_influence.projection import Dense, Identity, Kronecker, random_matrix, whole

P = 4
KINDS = {
    "kronecker": lambda seed: Kronecker(P, seed=seed),
    "kronecker normal": lambda seed: Kronecker(P, entries="normal", seed=seed),
    "dense": lambda seed: Dense(P * P, seed=seed),
    "dense normal": lambda seed: Dense(P * P, entries="normal", seed=seed),
}
LIKE = torch.zeros(0, dtype=torch.float64)
SEEDS = 600


def row(bound, gradients):
    """The row of gradients by block, shape (width,)."""
    out = torch.zeros(1, bound.width, dtype=torch.float64)
    for block, gradient in gradients.items():
        bound.add_whole(block, gradient[None], out)
    return out[0]


def products(kind, left, right):
    """<P left, P right> for many seeds, shape (SEEDS,)."""
    shapes = {block: tuple(g.shape) for block, g in left.items()}
    found = []
    for seed in range(SEEDS):
        bound = KINDS[kind](seed).bind(shapes, LIKE)
        found.append(float(row(bound, left) @ row(bound, right)))
    return np.array(found)


def check_mean(found, expected, size, hints):
    """The mean over seeds is the expected product within 4 standard errors."""
    error = found.std() / np.sqrt(len(found))
    assert error < 0.1 * size, f"the products vary too much to tell: {error:.2g} of {size:.2g}"
    ratio = found.mean() / expected if expected else np.inf
    assert abs(found.mean() - expected) < 4 * error, (
        f"the mean over seeds is {found.mean():.4g} +- {error:.2g}, exactly {expected:.4g} "
        f"(ratio {ratio:.3g}): {hints}"
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(7, 9), (3, 9), (9, 3), (11,)], ids=str)
def test_inner_products_are_kept_on_average(kind, shape):
    torch.manual_seed(0)
    g = torch.randn(shape, dtype=torch.float64)
    h = torch.randn(shape, dtype=torch.float64) + g
    hints = (
        f"a ratio of {P * P} is entries of variance 1 instead of 1 / p ({P} on one side only); of "
        f"1 / {P * P} a division by p instead of its root (1 / {P} on one side only)"
    )
    found = products(kind, {"w": g}, {"w": h})
    check_mean(found, float((g * h).sum()), float(g.norm() * h.norm()), hints)


@pytest.mark.parametrize("kind", KINDS)
def test_the_two_sides_have_matrices_of_their_own(kind):
    g = torch.zeros(8, 8, dtype=torch.float64)
    g[0, 1] = 1
    hints = f"about 1 / {P} is the same matrix on the left and on the right"
    check_mean(products(kind, {"w": g}, {"w": g.T.contiguous()}), 0.0, 1.0, hints)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_have_matrices_of_their_own(kind):
    g, zero = torch.ones(8, 8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64)
    hints = "about 64 is the same matrix for every block"
    found = products(kind, {"a": g, "b": zero}, {"a": zero, "b": g})
    if kind.startswith("dense"):
        check_mean(found, 0.0, 64.0, hints)
    else:
        assert not found.any(), "blocks share columns"
    bound = KINDS[kind](0).bind({"a": (8, 8), "b": (8, 8)}, LIKE)
    one, other = row(bound, {"a": g}), row(bound, {"b": g})
    assert not torch.equal(one[one != 0], other[other != 0]), hints


@pytest.mark.parametrize("n_rows", [1, 16, 37])
@pytest.mark.parametrize("entries", ["rademacher", "normal"])
def test_entries_have_mean_zero_and_variance_one_over_p(entries, n_rows):
    matrix = random_matrix("0/name", n_rows, 6000 // n_rows, entries).double() * n_rows**0.5
    assert abs(float(matrix.mean())) < 4 / 6000**0.5, "the entries do not have mean 0"
    variance = float(matrix.var())
    assert abs(variance - 1) < 0.08, f"variance is {variance / n_rows:.3g}, not 1 / {n_rows}"
    if entries == "rademacher":
        torch.testing.assert_close(matrix.abs(), torch.ones_like(matrix))


FROZEN = {"rademacher": "d76b42f960eb96af", "normal": "b063099751b916d7"}


@pytest.mark.parametrize("entries", FROZEN)
def test_numbers_are_frozen_by_the_specification(entries):
    matrix = random_matrix("0/transformer.wte.weight/0", 16, 50, entries)
    digits = np.round(matrix.numpy().astype(np.float64) * 1e4).astype("<i8").tobytes()
    found = hashlib.sha256(digits).hexdigest()[:16]
    assert found == FROZEN[entries], (
        f"the matrix of a specification has changed to {found}: stores made before hold other "
        "numbers, so raise projection.VERSION"
    )


def test_specifications_tell_projections_apart():
    given = [
        Identity(), Dense(4), Dense(4, seed=1), Dense(4, entries="normal"),
        Kronecker(4), Kronecker(5), Kronecker(4, seed=1), Kronecker(4, entries="normal"),
    ]  # fmt: skip
    stated = [str(dict(projection.specification)) for projection in given]
    assert len(set(stated)) == len(given)
    assert Kronecker(4) == Kronecker(4)


@pytest.mark.parametrize(
    "make", [lambda: Kronecker(0), lambda: Dense(-1), lambda: Kronecker(seed=-1)]
)
def test_bad_sizes_are_named(make):
    with pytest.raises(InputError, match="must be a whole number"):
        make()


def test_a_dense_matrix_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="use Kronecker"):
        Dense(8192).bind({"w": (4096, 4096)}, LIKE)


def added(bound, block, *parts):
    out = torch.zeros(len(parts[0][0]), bound.width, dtype=torch.float64)
    for sides in parts:
        bound.add(block, bound.reduce(block, sides), out)
    return out


def added_whole(bound, block, gradient):
    out = torch.zeros(len(gradient), bound.width, dtype=torch.float64)
    bound.add_whole(block, gradient, out)
    return out


ALL = {**KINDS, "identity": lambda seed: Identity()}
N, T = 3, 5


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("shape", [(7, 9), (3, 9), (9, 3), (4, 4)], ids=str)
def test_sides_give_what_their_gradient_gives(kind, shape):
    bound = ALL[kind](0).bind({"other": (6, 6), "w": shape}, LIKE)
    left, right = normal(N, T, shape[0]), normal(N, T, shape[1])
    gradient = torch.einsum("nti,ntj->nij", left, right)
    found = added(bound, "w", (left, right))
    torch.testing.assert_close(found, added_whole(bound, "w", gradient))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("size", [3, 11])
def test_vectors_give_what_their_sum_gives(kind, size):
    bound = ALL[kind](0).bind({"other": (6, 6), "norm": (size,)}, LIKE)
    vectors = normal(N, T, size)
    found = added(bound, "norm", (vectors,))
    torch.testing.assert_close(found, added_whole(bound, "norm", vectors.sum(1)))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("n_words", [3, 12])
def test_ids_are_one_hot_sides(kind, n_words):
    bound = ALL[kind](0).bind({"table": (n_words, 9)}, LIKE)
    ids = torch.randint(n_words, (N, T), generator=torch.Generator().manual_seed(0))
    ids[:, 1] = ids[:, 0]  # a word that comes twice
    right = normal(N, T, 9)
    dense = nn.functional.one_hot(ids, n_words).double()
    torch.testing.assert_close(
        added(bound, "table", (ids, right)), added(bound, "table", (dense, right))
    )


@pytest.mark.parametrize("kind", ALL)
def test_a_table_tied_to_a_head_with_bias_is_one_gradient(kind):
    bound = ALL[kind](0).bind({"table": (12, 10)}, LIKE)  # [W | b], 9 features
    ids = torch.arange(N * T).reshape(N, T) % 12
    b, inputs, outputs = normal(N, T, 9), normal(N, T, 10), normal(N, T, 12)
    total = torch.einsum("nti,ntj->nij", outputs, inputs)
    for n in range(N):
        for t in range(T):
            total[n, ids[n, t], :9] += b[n, t]
    found = added(bound, "table", (ids, b), (outputs, inputs))
    torch.testing.assert_close(found, added_whole(bound, "table", total))


@pytest.mark.parametrize("shape", [(P, P), (2, P), (P, 3)], ids=str)
def test_sides_not_longer_than_p_are_kept_as_they_are(shape):
    bound = Kronecker(P).bind({"w": shape, "v": (P,)}, LIKE)
    assert bound.width == shape[0] * shape[1] + P
    left, right = normal(N, T, shape[0]), normal(N, T, shape[1])
    found = added(bound, "w", (left, right))[:, bound.segments["w"].columns]
    assert torch.equal(found, whole((left, right), shape, torch.float64).flatten(1))
    kept = added_whole(bound, "v", normal(N, P))[:, bound.segments["v"].columns]
    assert torch.equal(kept, normal(N, P))
