"""Draws the picture at the top of the README, from a real run on scikit-learn's digits.

    python examples/readme_picture.py docs/picture.png

The run is that of mislabelled_digits.py. Takes five seconds on one core.
"""

import sys

import numpy as np
from lightgbm import LGBMClassifier
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from sklearn.datasets import load_digits

from influence import noise_detection
from influence.plot_style import OPPONENT, PROPONENT, REFERENCE
from tree_influence import BoostIn, trace

INK, PAPER, RULE = "#24292F", "#FCFCFA", "#D0D7DE"
ROWS, COLUMNS = 3, 6

digits = load_digits()
X, truth = digits.data, digits.target
n = len(X)
rng = np.random.default_rng(0)
wrong = np.sort(rng.choice(n, n // 10, replace=False))
labels = truth.copy()
labels[wrong] = (truth[wrong] + rng.integers(1, 10, len(wrong))) % 10
model = LGBMClassifier(n_estimators=30, num_leaves=8, learning_rate=0.2, n_jobs=1, verbose=-1)
suspicion = BoostIn().fit(trace(model.fit(X, labels), X, labels)).self_influence(progress=False)
suspects = np.argsort(-suspicion, kind="stable")[: ROWS * COLUMNS]
found = noise_detection(suspicion, wrong)
at_tenth = found.found[round(n / 10) - 1] / found.n_wrong

figure = Figure(figsize=(8, 3.6), facecolor="none")
card = FancyBboxPatch(
    (0.008, 0.016), 0.984, 0.968, "round,pad=0,rounding_size=0.02", transform=figure.transFigure,
    facecolor=PAPER, edgecolor=RULE, linewidth=0.8, mutation_aspect=8 / 3.6, zorder=-1,
)  # fmt: skip
figure.add_artist(card)


def say(x: float, y: float, text: str, size: float = 7.5, weight: str = "normal") -> None:
    """Text of the figure, its left lower corner in shares of the size."""
    figure.text(x, y, text, fontsize=size, color=INK, fontweight=weight)


# Left: the rows to check first, as the model was given them.
n_found = int(np.isin(suspects, wrong).sum())
say(0.035, 0.89, "Which training labels are wrong?", 11, "bold")
say(0.035, 0.825, f"The first {len(suspects)} suspects, and what they are labelled as.")
for place, row in enumerate(suspects):
    down, across = divmod(place, COLUMNS)
    ax = figure.add_axes((0.035 + 0.081 * across, 0.615 - 0.235 * down, 0.066, 0.147))
    ax.imshow(digits.images[row], cmap="gray_r", interpolation="nearest")
    ax.set(xticks=[], yticks=[], xlim=(-1.2, 8.2), ylim=(8.2, -1.2))
    colour = OPPONENT if row in wrong else INK
    for spine in ax.spines.values():
        spine.set(color=colour, linewidth=1.2)
    ax.set_xlabel(f"label {labels[row]}", fontsize=8, color=colour, labelpad=3)
say(0.035, 0.045, f"{n_found} of {len(suspects)} are planted wrong labels (orange).")

# Right: what inspection finds.
ax = figure.add_axes((0.615, 0.235, 0.345, 0.55), facecolor="none")
inspected = 100 * np.arange(n + 1) / n
recall = 100 * np.append(0, found.found) / found.n_wrong
ax.fill_between(inspected, inspected, recall, color=PROPONENT, alpha=0.1, linewidth=0)
ax.plot(inspected, recall, color=PROPONENT, linewidth=2.4)
ax.plot([0, 100], [0, 100], color=REFERENCE, linewidth=1.2, linestyle=(0, (4, 3)))
ax.plot([10], [100 * at_tenth], "o", color=PROPONENT, markersize=6)
told = f"10 % of the rows read:\n{100 * at_tenth:.0f} % of wrong labels found"
ax.text(11.5, 88, told, fontsize=8, color=PROPONENT, va="top", fontweight="bold")
ax.text(39.5, 14, "read in random order", fontsize=7.5, color="#5A5A5A", ha="right")
ax.set(xlim=(0, 40), ylim=(0, 104), xticks=[0, 10, 20, 30, 40], yticks=[0, 50, 100])
ax.set_xlabel("training rows read, most suspicious first (%)", fontsize=7.5, color=INK)
ax.set_ylabel("wrong labels found (%)", fontsize=7.5, color=INK)
ax.tick_params(labelsize=7.5, colors=INK, length=2.5)
ax.spines[["top", "right"]].set_visible(False)
ax.spines[["left", "bottom"]].set_color(REFERENCE)
say(0.575, 0.89, "Found by self-influence", 11, "bold")
say(0.575, 0.825, "How much worse is each row predicted without it?")
say(0.575, 0.045, f"{n:,} digits, a tenth relabelled at random; LightGBM.")

target = sys.argv[1] if len(sys.argv) > 1 else "readme_picture.png"
figure.savefig(target, dpi=200, pil_kwargs={"optimize": True})
print(
    f"{target}: {n_found} of {len(suspects)} suspects are planted; {at_tenth:.1%} found in a tenth"
)
