"""Fine-tune a classifier by LoRA on texts of which some are labelled wrongly, and find those.

A tiny GPT-2 and made-up reviews stand in for yours. Takes eight seconds on one core.
"""

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2ForSequenceClassification

from influence import label_noise_curve
from llm_influence import TracIn, trace

GOOD, BAD = ("good", "great", "fine", "nice", "superb"), ("bad", "awful", "dull", "sad", "poor")
OTHER = ("the", "film", "was", "a", "story", "with", "actors", "and", "music", "very", "quite")
word_ids = {word: i for i, word in enumerate(["<pad>", *GOOD, *BAD, *OTHER])}
rng, _ = np.random.default_rng(0), torch.manual_seed(0)


def reviews(n: int) -> list[dict]:
    """Reviews as token ids, with label 1 where their telling words are good."""
    made = []
    for _ in range(n):
        label = int(rng.integers(2))
        words = [*rng.choice(OTHER, 5), *rng.choice(GOOD if label else BAD, 2)]
        rng.shuffle(words)
        made.append({"input_ids": [word_ids[word] for word in words], "labels": label})
    return made


# Every tenth label of the training reviews is wrong.
train, test = reviews(200), reviews(50)
for row in (wrong := range(0, len(train), 10)):
    train[row]["labels"] = 1 - train[row]["labels"]

# Your model goes here; LoRA trains a few matrices and the head, the rest stays as it is.
sizes = {"vocab_size": len(word_ids), "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 16}
special = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
base = GPT2ForSequenceClassification(GPT2Config(num_labels=2, **sizes, **special))
adapter = LoraConfig("SEQ_CLS", r=4, target_modules=["c_attn"], fan_in_fan_out=True)
model = get_peft_model(base, adapter)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-2)
checkpoints = []
for _epoch in range(3):
    for batch in rng.permutation(len(train)).reshape(-1, 10):
        rows = {key: torch.tensor([train[i][key] for i in batch]) for key in train[0]}
        optimizer.zero_grad()
        model(**rows).loss.backward()
        optimizer.step()
    checkpoints.append({name: value.clone() for name, value in model.state_dict().items()})
model.eval()

run = trace(model, train, checkpoints=checkpoints)
print(f"covered: {run.coverage.share:.0%} of the trained parameters")
estimator = TracIn(normalise="unit").fit(run)

# Reviews that hurt the test reviews most: read these first.
hurt = -estimator.explain(test).values.mean(axis=1)
print(label_noise_curve(hurt, wrong, (0.05, 0.1, 0.2)))
