"""A small random model made in code, so that a plain clone tests every property without any download.

The base is a two-layer Llama with a byte-level BPE tokenizer; LoRA and memory rows are random, not zero, so that roles
differ from each other and from the base.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from clara_model import ClaraModel
from clara_model.checkpoint.config import ClaraConfig
from clara_model.modeling.tokens import Tokens

TEXTS = [
    "Ada Fenwick catalogued the tide clock in Larkhaven in 1962.",
    "The copper mill of Osmere was rebuilt by Mei Lin, who later moved to Tolvik.",
    "About 905 visitors came to see the signal tower each week, according to Oskar Brandt.",
    "Tomas Reyl funded the seed archive in Tolvik in 1791. It took 25 years.",
    "In Cold Harbour, the paper museum was painted by Priya Nair.",
]
QUESTIONS = ["Who catalogued the tide clock?", "Where is the paper museum?", "How many visitors came?"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


class Documents(NamedTuple):
    """Encoder ids of texts and their mask ``[N, T]``, left-padded to the longest, and the text tokens of each."""

    ids: torch.Tensor
    mask: torch.Tensor
    lengths: tuple[int, ...]


def documents(tokens: Tokens, texts: Sequence[str], max_length: int | None = None) -> Documents:
    rows = [tokens.document_ids(text, max_length) for text in texts]
    return Documents(*tokens.pad(rows), tokens.lengths(rows))


def build_tokenizer(more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 400 tokens with ``<s>``, ``</s>`` and no pad token; ``more`` texts to learn merges from."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*more, *TEXTS, *QUESTIONS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", chat_template=CHAT_TEMPLATE
    )


def build_base(seed: int = 0, hidden: int = 32, layers: int = 2, vocabulary: int = 400) -> LlamaForCausalLM:
    """A random Llama; ``hidden`` must be a multiple of 4."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=1,
    )
    return LlamaForCausalLM(config)


def save_base(folder: Path, **sizes: int) -> Path:
    """A base model's folder."""
    tokenizer = build_tokenizer()
    build_base(vocabulary=len(tokenizer), **sizes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def build_model(base_folder: Path, seed: int = 1, **fields: object) -> ClaraModel:
    """A float32 model on the base in ``base_folder`` with random adapters and memory rows."""
    values = {"doc_max_length": 48, "compression_rate": 12, "lora_rank": 4, "lora_alpha": 8, "top_k": 2, **fields}
    config = ClaraConfig(base_model=str(base_folder), **values)
    base = LlamaForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
    torch.manual_seed(seed)
    model = ClaraModel(base, tokenizer, config)
    with torch.no_grad():
        for parameter in model.trainable_parameters(config.roles).values():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model
