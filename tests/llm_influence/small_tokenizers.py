"""Small tokenizers trained on the spot, with what their libraries let one choose."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = ["the cat sat on the mat", "what is the answer? it is 4", "a dog ran to the cat"]
# One line per turn; the assistant's text and its end are what it generates.
MARKED = (
    "{% for m in messages %}{{ '<' + m.role + '>' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
UNMARKED = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def bpe(
    ends: str = "nothing",
    template: str | None = None,
    *,
    texts: Sequence[str] = tuple(SENTENCES * 3),
    n_tokens: int = 310,
    **named,
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that adds `nothing`, its `bos`, or `both` bos and eos."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_tokens,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    if ends != "nothing":
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>" if ends == "both" else "<s> $A",
            special_tokens=[("<s>", 1), ("</s>", 2)],
        )
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", **named}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    tokenizer.chat_template = template
    return tokenizer
