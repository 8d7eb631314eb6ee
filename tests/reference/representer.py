"""A ridge model on explicit features by a general minimiser, and what it gives each row.

Dense, and from the equations; imports none of our code.
"""

import numpy as np
from scipy.optimize import minimize


def gradient_and_value(loss, y, score):
    """dL/dF (n, K) and L (n,) of "squared", "logistic" or "softmax"."""
    if loss == "squared":
        return score - y[:, None], 0.5 * (score[:, 0] - y) ** 2
    if loss == "logistic":
        p = 1 / (1 + np.exp(-score))
        return p - y[:, None], np.logaddexp(0, score[:, 0]) - y * score[:, 0]
    e = np.exp(score - score.max(axis=1, keepdims=True))
    p = e / e.sum(axis=1, keepdims=True)
    one_hot = np.eye(score.shape[1])[y.astype(int)]
    return p - one_hot, -np.log((p * one_hot).sum(axis=1))


def fitted(loss, phi, y, weight, start, l2, model=None):
    """W (n_features, K); with `model`, the scores whose gradient the loss loses."""
    share, k = weight / weight.sum(), len(start)
    kept = 0.0 if model is None else gradient_and_value(loss, y, model)[0]

    def objective(flat):
        w = flat.reshape(-1, k)
        score = start + phi @ w
        g, value = gradient_and_value(loss, y, score)
        total = share @ (value - (kept * score).sum(axis=1)) + l2 * (w**2).sum()
        return total, (phi.T @ (share[:, None] * (g - kept)) + 2 * l2 * w).ravel()

    found = minimize(
        objective, np.zeros(phi.shape[1] * k), jac=True, method="L-BFGS-B",
        options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 0, "gtol": 1e-12, "maxcor": 50},
    )  # fmt: skip
    return found.x.reshape(-1, k)


def influence(loss, phi, y, weight, start, l2, phi_test, y_test, model=None):
    """Change of each query's loss without row j's term in its score, (n_train, n_queries)."""
    w = fitted(loss, phi, y, weight, start, l2, model)
    score = start + phi @ w
    g, _ = gradient_and_value(loss, y, score)
    if model is not None:
        g = g - gradient_and_value(loss, y, model)[0]
    alpha = -(weight / weight.sum())[:, None] * g / (2 * l2)
    asked = start + phi_test @ w
    before = gradient_and_value(loss, y_test, asked)[1]
    out = np.zeros((len(y), len(y_test)))
    for j in range(len(y)):
        for q in range(len(y_test)):
            without = asked[q] - alpha[j] * (phi[j] @ phi_test[q])
            out[j, q] = gradient_and_value(loss, y_test[[q]], without[None])[1][0] - before[q]
    return out
