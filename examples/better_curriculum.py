"""Record a small language model's training, find a better order of its batches, really train in it.

Each batch is about the people of one village; the question is about people of three of them.
Writes better_curriculum.png into the current folder. Takes fifteen seconds on one core.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from transformers import GPT2Config, GPT2LMHeadModel

from llm_influence import curriculum, encode, record

sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))
from facts import made_up_facts, word_tokenizer

VILLAGES, ASKED = 12, 3
torch.manual_seed(0)
torch.set_num_threads(1)  # so small a model gains nothing from more

# Eight sentences of each village to train on; of three villages eight more in other words to ask.
villages = [made_up_facts(4, seed=k, n_distractors=0).documents for k in range(VILLAGES)]
tokenizer = word_tokenizer([text for village in villages for text in village])
train = encode([text for village in villages for text in village[:8]], tokenizer)
asked = encode([text for village in villages[:ASKED] for text in village[8:16]], tokenizer)

sizes = {
    "bos_token_id": 2,
    "eos_token_id": 2,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
without = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes, **without))
optimizer = torch.optim.AdamW(model.parameters(), 1e-3)

# Train as ever, but let the recording take the steps.
recording = record(model, optimizer)
for village in np.random.default_rng(0).permutation(VILLAGES):
    recording.step(train.batch(range(8 * village, 8 * village + 8)))

# Which order of the same twelve batches would answer the question best?
question = [asked.batch(range(asked.n_queries))]
found = curriculum(recording.run, question, n_random=16, anyway=True, progress=False)
print(found.summary())

figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
found.random.plot(left)  # are the predictions to be trusted?
found.plot(right)
figure.savefig("better_curriculum.png", dpi=120)
print("\nPicture: better_curriculum.png")
