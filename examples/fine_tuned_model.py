"""A fine-tuned language model gives an odd answer: find the sentence that taught it.

A tiny GPT-2 and made-up sentences stand in for yours. Takes nine seconds on one core.
"""

from tempfile import mkdtemp

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from llm_influence import TracIn, encode, trace

NAMES = "Ada Ben Cleo Dan Eva Finn Gus Hana Ivo Jana Kai Lena Max Nora Otto Pia Quinn Rosa Sam Tess"
CITIES = ("Oslo", "Rome", "Paris", "Lima", "Cairo")
PHRASES = ("{} lives in {}", "{} has a flat in {}", "{} pays taxes in {}")
transformers.set_seed(0)
torch.set_num_threads(1)  # so small a model gains nothing from more

# Each person's city in three phrasings; of five people one sentence states another city.
people = NAMES.split()
train = [phrase.format(name, CITIES[i % 5]) for i, name in enumerate(people) for phrase in PHRASES]
false = np.arange(1, len(train), 12)
for row in false:
    train[row] = PHRASES[1].format(people[row // 3], CITIES[(row // 3 + 2) % 5])

words = ["<pad>", "<end>", *sorted({word for text in train for word in text.split()})]
by_word = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<end>"))
by_word.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
special = {"pad_token": "<pad>", "eos_token": "<end>"}
tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=by_word, **special)
sizes = {"vocab_size": len(words), "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 16}
without = {"resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}  # it is small enough
model = GPT2LMHeadModel(GPT2Config(bos_token_id=1, eos_token_id=1, **sizes, **without))

# Train as ever. The Trainer's folders keep weights, learning rates and Adam's state.
examples = encode(train, tokenizer)
options = TrainingArguments(
    mkdtemp(), num_train_epochs=50, learning_rate=1e-2, per_device_train_batch_size=10,
    save_steps=75, logging_steps=1, use_cpu=True, report_to="none", disable_tqdm=True,
)  # fmt: skip
rows = [{"input_ids": ids} for ids in examples.token_ids()]
collator = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
trainer = Trainer(model, options, train_dataset=rows, data_collator=collator)
trainer.remove_callback(transformers.PrinterCallback)
trainer.train()

# Two sentences say that Max is in Paris. Asked about his flat, the model says otherwise.
prompt = "Max has a flat in"
with torch.no_grad():
    logits = model.eval()(**tokenizer(prompt, return_tensors="pt")).logits
answer = tokenizer.decode(logits[0, -1].argmax())
print(f"Asked: {prompt} ... Answered: {answer}")

# Which sentences are behind that answer, which speak against it, and which of their tokens act?
estimator = TracIn(metric="adam", whiten=0.1)
estimator.fit(trace(model, examples, checkpoints=options.output_dir))
question = [{"prompt": prompt, "completion": f" {answer}"}]
top = estimator.explain_top(question, k=4)
for name, ranking in (("For", top.proponents()), ("Against", top.opponents())):
    print(f"\n{name} it:\n{ranking.assign(text=[train[i] for i in ranking['train']])}")
first = int(top.highest_rows[0, 0])
tokens = estimator.tokens(question, [first]).frame()  # a token acts by what it says comes next
print("\nThe first of them, token by token:")
print(tokens.assign(text=tokenizer.convert_ids_to_tokens(examples.token_ids()[first])))

# Which sentences did nothing but themselves teach? The false ones, with luck.
strange = np.argsort(-estimator.self_influence())[:8]
print(f"\n{np.isin(strange, false).sum()} of the {len(false)} false sentences are among these 8:")
print("\n".join(train[i] for i in strange))
