"""The model that learns facts: its losses and answers are those of transformers."""

import pytest
import torch

pytest.importorskip("transformers")

from facts import made_up_facts, word_tokenizer
from llm_influence.facts_model import answers_right, encoded, losses, train

FACTS = made_up_facts(4, seed=0, n_relations=1, phrasings=2, n_distractors=4)


@pytest.fixture(scope="module")
def trained():
    tokenizer = word_tokenizer(FACTS.texts())
    return train(tokenizer, FACTS.documents, FACTS.practice, width=32, n_steps=24)


def test_examples_are_the_documents_then_the_practice(trained):
    tokenizer = trained.tokenizer
    assert len(trained.examples) == len(FACTS.documents) + len(FACTS.practice)
    first, last = trained.examples[0], trained.examples[-1]
    assert first["input_ids"] == [2, *tokenizer(FACTS.documents[0])["input_ids"], 2]
    assert first["labels"] == [-100, *first["input_ids"][1:]]
    answer = tokenizer(FACTS.practice[-1]["completion"])["input_ids"]
    assert last["labels"][-len(answer) - 1 :] == [*answer, 2]
    assert set(last["labels"][: -len(answer) - 1]) == {-100}


def test_losses_in_a_padded_batch_are_those_of_transformers_one_by_one(trained):
    model = trained.model
    one_by_one = [
        model(**{k: torch.tensor([v]) for k, v in example.items()}).loss
        for example in trained.examples
    ]
    torch.testing.assert_close(losses(model, trained.examples), torch.stack(one_by_one))


def test_right_answers_are_those_of_greedy_generation(trained):
    pairs = [*FACTS.practice, *FACTS.questions]
    spoken = []
    for pair in pairs:
        prompt = encoded(trained.tokenizer, pair["prompt"])["input_ids"][:-1]
        said = trained.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), do_sample=False,
            max_new_tokens=4, pad_token_id=0,
        )[0, len(prompt) :].tolist()  # fmt: skip
        answer = [*trained.tokenizer(pair["completion"])["input_ids"], 2]
        spoken.append(said[: len(answer)] == answer)
    assert answers_right(trained, pairs).tolist() == spoken
    assert len(set(spoken)) == 2, "the test needs right answers and wrong ones"


def test_checkpoints_end_with_the_model(trained):
    assert len(trained.checkpoints) == 4
    last = trained.checkpoints[-1]
    assert {entry["step"].item() for entry in last.adam["state"].values()} == {24}
    for name, weight in trained.model.state_dict().items():
        assert torch.equal(last.weights[name], weight)
    first = trained.checkpoints[0].weights["lm_head.weight"]
    assert not torch.equal(first, trained.model.lm_head.weight)


def test_rates_are_the_steps_on_one_example(trained):
    """24 steps: the rate rises linearly over 50 and falls by 90 % over all."""
    taken = [3e-3 * step / 50 * (1 - 0.9 * (step - 1) / 24) for step in range(1, 25)]
    n = len(trained.examples)
    expected = [sum(taken[i : i + 6]) / n for i in range(0, 24, 6)]
    assert [c.rate for c in trained.checkpoints] == pytest.approx(expected)


def test_a_seed_fixes_the_weights(trained):
    before = torch.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        one = train(
            trained.tokenizer, FACTS.documents, FACTS.practice, seed=seed, width=32, n_steps=4
        )
        weights.append(one.checkpoints[-1].weights["lm_head.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(before, torch.get_rng_state()), "training moved the global generator"
