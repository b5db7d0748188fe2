"""A random model of a chosen size and texts for it, built here: nothing is downloaded, and the answers mean nothing.

Asks `clara_model` for nothing but its public names, so that `before_after.py` can run it on older code.
"""

import argparse
import random

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from clara_model import ClaraConfig, ClaraModel

PRESETS = {
    "58m": {"hidden": 512, "layers": 8, "intermediate": 1376, "heads": 8, "kv_heads": 8, "words": 180},
    "135m": {"hidden": 576, "layers": 30, "intermediate": 1536, "heads": 9, "kv_heads": 3, "words": 180},
    "7b": {"hidden": 4096, "layers": 32, "intermediate": 14336, "heads": 32, "kv_heads": 8, "words": 256},
}
CHAT = "{{ bos_token }}{% for m in messages %} [{{ m['role'] }}] {{ m['content'] }}{% endfor %}"
VOCABULARY, MAX_LENGTH, ADDED = 32000, 256, 3
"""`MAX_LENGTH`: tokens of the longest document, where documents are not longer (`max_length`)."""


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Options of the model, its documents and where it runs."""
    parser.add_argument("--preset", choices=PRESETS, default="58m")
    for name in PRESETS["58m"]:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="instead of the preset's")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--top-k", type=int, default=5)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--attn", default="sdpa", help="as transformers names it")
    parser.add_argument("--decoding", default="exact", choices=("exact", "quick", "compiled"))
    parser.add_argument("--threads", type=int, default=2, help="threads of the CPU (default: %(default)s)")


def take_sizes(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The parsed options, the preset's where nothing else was said."""
    args = parser.parse_args()
    for name, value in PRESETS[args.preset].items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    return args


def max_length(args: argparse.Namespace) -> int:
    """Tokens of the longest document that the model takes."""
    return max(MAX_LENGTH, args.words)


def build_base(args: argparse.Namespace, added: int = 0) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random Llama and its tokenizer, which leaves room in the vocabulary for so many added tokens."""
    words = ["<s>", "</s>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 3 - added))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=CHAT
    )
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=args.hidden,
        intermediate_size=args.intermediate,
        num_hidden_layers=args.layers,
        num_attention_heads=args.heads,
        num_key_value_heads=args.kv_heads,
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
    )
    with torch.device(args.device):
        dtype = getattr(torch, args.dtype)
        return LlamaForCausalLM._from_config(config, attn_implementation=args.attn, dtype=dtype), tokenizer


def build(args: argparse.Namespace, rate: int) -> ClaraModel:
    """A random Llama with roles; its vocabulary has room for the added tokens, so nothing is resized."""
    length = max_length(args)
    base, tokenizer = build_base(args, length // rate + ADDED)
    prompt_length = 2 * args.top_k * length // rate + 512
    shape = ClaraConfig(
        base_model="random", doc_max_length=length, compression_rate=rate, max_prompt_length=prompt_length
    )
    model = ClaraModel(base, tokenizer, shape).to(args.device).to_float(base.dtype)
    decoding = getattr(args, "decoding", "exact")  # as the older code of `before_after.py` has it
    if decoding == "quick":
        model.merged.quick = True
    if decoding == "compiled":
        model.compile_decoding()
    return model


def documents(args: argparse.Namespace) -> list[str]:
    """Texts of about ``words`` tokens; exactly so many where that is the most a document can have."""
    draw = random.Random(0)
    spread = min(args.words // 6, max_length(args) - args.words)
    lengths = [args.words + draw.randint(-spread, spread) for _ in range(args.documents)]
    return [" ".join(f"w{draw.randrange(VOCABULARY - 400)}" for _ in range(length)) for length in lengths]


def count(model: ClaraModel) -> int:
    """Parameters of the base model, adapters left out."""
    return sum(p.numel() for name, p in model.base.named_parameters() if ".lora_" not in name)


def matrix_products(model: ClaraModel, rows: int, width: int) -> None:
    """Every matrix product of one compressor batch of ``rows`` texts of ``width`` positions, and nothing else."""
    config, weights = model.base.config, {"device": model.device, "dtype": model.base.dtype}
    heads, size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    inputs = {n: torch.ones(rows * width, n, **weights) for n in (config.hidden_size, config.intermediate_size)}
    query_NHTD = torch.ones(rows, heads, width, size, **weights)
    scores_NHTT = torch.ones(rows, heads, width, width, **weights)
    low = torch.ones(rows * width, model.config.lora_rank, **weights)
    with torch.no_grad():
        for index, layer in enumerate(model.roles.layers().values()):
            x: Tensor = inputs[layer.base_layer.in_features]
            functional.linear(x, layer.base_layer.weight)
            functional.linear(x, layer.lora_A["compressor"].weight)
            functional.linear(low, layer.lora_B["compressor"].weight)
            if index % 7 == 0:  # seven projections in a layer, one attention
                torch.matmul(query_NHTD, query_NHTD.transpose(-1, -2))
                torch.matmul(scores_NHTT, query_NHTD)
