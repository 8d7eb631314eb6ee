"""Find planted wrong labels among handwritten digits, and look at the first suspects.

Every tenth label is replaced by another digit at random, which is an easy kind of noise. Writes
mislabelled_digits.png into the current folder. Takes five seconds on one core.
"""

import numpy as np
from lightgbm import LGBMClassifier
from matplotlib import pyplot
from sklearn.datasets import load_digits

from influence import noise_detection
from tree_influence import BoostIn, TrainingLoss, trace

digits = load_digits()
X, truth = digits.data, digits.target
rng = np.random.default_rng(0)
wrong = np.sort(rng.choice(len(X), len(X) // 10, replace=False))
labels = truth.copy()
labels[wrong] = (truth[wrong] + rng.integers(1, 10, len(wrong))) % 10

model = LGBMClassifier(n_estimators=30, num_leaves=8, learning_rate=0.2, n_jobs=1, verbose=-1)
run = trace(model.fit(X, labels), X, labels)

# A row with large influence on its own loss could not be guessed from the others.
suspicion = BoostIn().fit(run).self_influence(progress=False)
found = noise_detection(suspicion, wrong)
plain = noise_detection(TrainingLoss().fit(run).self_influence(progress=False), wrong)
print(f"Self-influence of BoostIn: {found}")
print(f"The loss of each row alone: {plain}\n")
print(found.to_frame().to_string(index=False, float_format="{:.0%}".format))

# The 24 first suspects with their labels, and how many wrong labels inspection finds.
suspects = np.argsort(-suspicion, kind="stable")[:24]
figure = pyplot.figure(figsize=(11, 4.4), layout="constrained")
left, right = figure.subfigures(1, 2)
for row, ax in zip(suspects, left.subplots(4, 6).flat, strict=True):
    ax.imshow(digits.images[row], cmap="gray_r")
    ax.set_title(f"“{labels[row]}”", fontsize="small")
    ax.set_axis_off()
n_wrong = np.isin(suspects, wrong).sum()
left.suptitle(f"First suspects with their labels: {n_wrong} of 24 are wrong")
curves = right.subplots()
found.plot(curves, "self-influence")
plain.plot(curves, "loss alone").set_xlim(0, 30)
figure.savefig("mislabelled_digits.png", dpi=120)
print(f"\n{n_wrong} of the 24 first suspects are mislabelled; see mislabelled_digits.png")
