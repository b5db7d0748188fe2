"""The tiny model's tokenizer: a byte-level BPE trained on the world, with a short chat template of its own.

Every text gets a space in front (as Llama's tokenizers do), so that a name has the same tokens at the start of a
document, inside a sentence and as an answer. Numbers are cut into pairs of digits. The syllables of the world are shown
to the trainer as words of their own, so that a name becomes one token per syllable; nothing else is special-cased, and
all bytes are representable.

    python examples/tiny/tokenizer.py FOLDER
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from world import ONSETS, VOWELS, World

PROMPTS = Path(__file__).with_name("prompts.json")
VOCAB_SIZE = 1536
SPECIALS = ("<s>", "</s>", "<pad>", "<system>", "<user>", "<assistant>")
WORDS = r"\u0120?[A-Za-z]+|\u0120?[0-9]{1,2}|\u0120?[^A-Za-z0-9\u0120]+|\u0120+"
"""How text is cut before BPE; \\u0120 is the byte-level alphabet's space."""

CHAT_TEMPLATE = (
    "{{ '<s>' }}{% for message in messages %}"
    "{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def pack(pairs: Sequence[tuple[str, str]]) -> str:
    """Questions and answers as one response to the `question_answering` prompt."""
    return "\n".join(f"Question: {question}\nAnswer: {answer}" for question, answer in pairs)


def _syllables() -> Iterator[str]:
    """Syllables and pairs of digits; open syllables far more often, to be merged before anything crosses them."""
    for onset in ONSETS:
        for vowel in VOWELS:
            for form in (onset + vowel, " " + onset.upper() + vowel):
                yield from [form] * 20_000
                yield from [form + "n"] * 600
            yield from [onset + vowel + "s"] * 600
    for number in range(100):
        yield from [f"{number:02d}", f" {number:02d}"] * (600 if 10 < number < 20 else 300)


def _corpus(seed: int, count: int) -> Iterator[str]:
    """Syllables, then documents with their questions and answers, then the prompts' own words."""
    yield from _syllables()
    world = World(seed)
    for entity in world.entities(count):
        yield world.document(entity)
        yield pack(world.questions(entity, 2))
    prompts = json.loads(PROMPTS.read_text())
    for prompt in prompts.values():
        for template in prompt["user"]:
            yield from [template.replace("{memory}", "").replace("{question}", "")] * 100


def build_tokenizer(seed: int = 0, *, documents: int = 2000) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    Args:
        seed: Seed of the world whose documents are read.
        documents: How many documents are read.
    """
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Prepend(" ")
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
        ]
    )
    bpe.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.normalizer = None  # the training corpus says itself where spaces are
    bpe.train_from_iterator(_corpus(seed, documents), trainer)
    bpe.normalizer = normalizers.Prepend(" ")
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        padding_side="right",
    )


def main() -> None:
    """Train and save."""
    folder = Path(sys.argv[1])
    build_tokenizer().save_pretrained(folder)
    print(folder)


if __name__ == "__main__":
    main()
