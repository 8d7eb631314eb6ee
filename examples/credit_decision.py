"""A credit model refuses an applicant who would have repaid: which training rows made it?

On made-up applicants, one in ten filed under the wrong outcome. `--real` takes german_credit out of
the folder $INFLUENCE_DATA, with wrong outcomes planted likewise. Takes a few seconds on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from lightgbm import LGBMClassifier

from influence import Without
from tree_influence import LeafInfluence, LeafRefit, retrainer, trace

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from fetch import fetch
from generators import credit_table

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--real", action="store_true", help="german_credit instead of made-up rows")
real = parser.parse_args().real

# Applicants with their outcomes; those of training are partly filed wrongly.
if real:
    X, risk = fetch("german_credit")
    truth = risk.map({1: "repaid", 2: "default"}).astype(object)
    rng = np.random.default_rng(0)
    misfiled = np.sort(rng.choice(len(X), len(X) // 10, replace=False))
    filed = truth.copy()
    filed.iloc[misfiled] = np.where(truth.iloc[misfiled] == "repaid", "default", "repaid")
else:
    made = credit_table(900, seed=0, wrong=0.1)
    X, filed, truth, misfiled = made.X, made.y, made.true_y, made.wrong
n_train = len(X) - 200
misfiled = misfiled[misfiled < n_train]
X_train, y_train, X_new, y_new = X[:n_train], filed[:n_train], X[n_train:], truth[n_train:]

model = LGBMClassifier(n_estimators=60, num_leaves=8, min_child_samples=10, n_jobs=1, verbose=-1)
model.fit(X_train, y_train)
decided = model.predict(X_new)
refused = np.flatnonzero((decided == "default") & (y_new == "repaid"))
print(f"Accuracy on {len(X_new)} new applicants: {(decided == y_new).mean():.0%}.")
print(f"{len(refused)} who would have repaid are refused. The first of them:\n")
print(X_new.iloc[refused[0]].to_string(), "\n")

# The rows that speak for the refusal are opponents of the truth, "repaid".
run = trace(model, X_train, y_train)
asked = X_new.iloc[refused], y_new.iloc[refused]
explained = LeafInfluence().fit(run).explain(*asked, progress=False)
opponents = explained.opponents(k=10)
first = opponents[opponents["query"] == X_new.index[refused[0]]]
rows = X_train.loc[first["train"]].iloc[:, :6].assign(filed=y_train.loc[first["train"]])
rows["misfiled"] = np.where(np.isin(first["train"], misfiled), "yes", "")
rows["influence"] = first["influence"].to_numpy()
print("The ten rows that hurt most (influence = change of the applicant's loss without the row):")
print(rows.to_string(float_format=lambda value: f"{value:g}" if value > 1 else f"{value:.3f}"))

# Read the files of each applicant's ten rows, and leave out those that are misfiled.
refit, retrain = LeafRefit().fit(run), retrainer(run, *asked)
loss = run.losses(run.queries(*asked))  # the negative log probability of "repaid"
rng = np.random.default_rng(1)
answers = []
for j, query in enumerate(X_new.index[refused]):
    ranked = run.train_index.get_indexer(opponents[opponents["query"] == query]["train"])
    found = ranked[np.isin(ranked, misfiled)]
    others = Without(rng.choice(n_train, len(found), replace=False))
    effects = {
        "as trained": 0.0,
        "same trees, new leaves": refit.predict(Without(found), *asked)[j],
        "trained again": retrain(Without(found))[j],
        "without random rows": retrain(others)[j],
    }
    after = {name: 1 - np.exp(-loss[j] - effect) for name, effect in effects.items()}
    answers.append({"applicant": query, "misfiled of 10": len(found), **after})
table = pd.DataFrame(answers)
print("\nProbability of default without the misfiled rows found, for everyone wrongly refused:")
print(table.to_string(index=False, float_format="{:.2f}".format))
print(f"\nTrained again without them, {(table['trained again'] < 0.5).sum()} of {len(table)} are "
      f"accepted; without as many random rows, {(table['without random rows'] < 0.5).sum()}.\n"
      f"Of the rows read {table['misfiled of 10'].mean() / 10:.0%} are misfiled, of all rows "
      f"{len(misfiled) / n_train:.0%}.")  # fmt: skip
