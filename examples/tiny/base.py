"""Pre-train the tiny base model from nothing: it learns to read documents in its context and to answer about them.

Its diet is the chat prompts of `prompts.json` with the documents' text in place of `{memory}`, in three forms: a
conversation of several questions about the same documents (each turn is one single-question answer), a packed list of
questions and answers, and a paraphrase. Answers carry most of the loss. Logits are computed only where the loss has a
weight, batches hold sequences of similar length.

    python examples/tiny/base.py                       # train, then measure
    python examples/tiny/base.py --eval-only           # measure the saved checkpoint

A run that was stopped goes on from its last checkpoint when started again.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tokenizer import PROMPTS, build_tokenizer
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import Entity, World

logger = logging.getLogger("base")

RUNS = Path.home() / ".cache" / "clara-tiny" / "base"
HELD_OUT_SEED = 20_000
ANSWER, PARAPHRASE, ASKED, TOLD = 1.0, 0.15, 0.1, 0.1
"""Loss weights of tokens: an answer's, a paraphrase's, a packed question's, those of a document's sampled tokens."""
ALIKE = 0.6
"""Share of contexts with several documents in which all are about the same kind of thing."""
TOLD_SHARE = 0.1
"""Share of a document's tokens that are trained on at all."""


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What is trained and for how long."""

    seed: int = 1
    """Seed of the weights and of the training world."""
    steps: int = 5000
    """Optimizer steps; the learning rate decays to zero at the last."""
    tokens: int = 4096
    """Padded tokens per step."""
    rate: float = 3e-3
    """Peak learning rate."""
    warmup: int = 100
    """Steps of linear warm-up."""
    hidden: int = 192
    """Hidden size."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 6
    """Attention heads."""
    inner: int = 512
    """Width of the gated feed-forward layer."""
    optimizer: str = "muon"
    """`adamw`, or `muon` for the matrices inside the layers."""
    compile: bool = True
    """Fuse the step with `torch.compile`."""


@dataclass
class Chat:
    """A chat rendered as the tokenizer's template renders it, with a loss weight per character."""

    parts: list[str] = field(default_factory=lambda: ["<s>"])
    weights: list[tuple[int, float]] = field(default_factory=lambda: [(3, 0.0)])

    def add(self, text: str, weight: float = 0.0) -> None:
        """Append raw text, every character with one weight."""
        self.parts.append(text)
        self.weights.append((len(text), weight))

    def user(self, content: str, document: str = "") -> None:
        """A user turn; the document in it is trained on lightly."""
        before, found, after = content.partition(document) if document else (content, "", "")
        self.add("<user>" + before)
        self.add(found, -1.0)
        self.add(after)

    @property
    def text(self) -> str:
        """The whole chat."""
        return "".join(self.parts)

    def char_weights(self) -> np.ndarray:
        """Loss weight of every character, -1 inside documents."""
        lengths, weights = zip(*self.weights, strict=True)
        return np.repeat(np.array(weights, dtype=np.float32), lengths)


def draw_documents(world: World, progress: float) -> list[Entity]:
    """Entities of one context: one until that is learned, then more and more often 2 to 5, which must be told apart.

    Args:
        world: where they come from.
        progress: of the run, 0 to 1.
    """
    rng = world.rng
    if rng.random() < 0.02 + 0.73 * min(1.0, max(0.0, progress - 0.3) / 0.2):
        return world.entities(rng.randint(2, 5), alike=rng.random() < ALIKE)
    short = rng.random() < 0.06
    return world.entities(1, facts=(1, 2)) if short else world.entities(1)


def asked(world: World, entities: list[Entity], count: int) -> list[tuple[str, str]]:
    """Questions about the entities, all different facts, in random order."""
    pairs = [pair for entity in entities for pair in world.questions(entity)]
    world.rng.shuffle(pairs)
    return pairs[:count]


def draw_chat(world: World, prompts: dict, progress: float) -> Chat:
    """One training sequence in one of the three forms."""
    rng, chat = world.rng, Chat()
    form = rng.random()
    if form < 0.1:
        (entity,) = world.entities(1)
        text = world.document(entity)
        chat.user(rng.choice(prompts["paraphrase"]["user"]).replace("{memory}", text), text)
        chat.add("<assistant>")
        chat.add(world.tell(entity) + "</s>", PARAPHRASE)
        return chat
    entities = draw_documents(world, progress)
    text = "\n ".join(world.document(entity) for entity in entities)
    pairs = asked(world, entities, 6 + 2 * len(entities))
    if form < 0.35:
        chat.user(prompts["question_answering"]["user"][0].replace("{memory}", text), text)
        _add_packed(chat, pairs)
    else:
        _add_turns(chat, prompts["answer"]["user"][0], text, pairs)
    return chat


def _add_packed(chat: Chat, pairs: list[tuple[str, str]]) -> None:
    chat.add("<assistant>")
    before = ""
    for question, answer in pairs:
        chat.add(f"{before}Question: {question}\nAnswer:", ASKED)
        chat.add(f" {answer}", ANSWER)
        before = "\n"
    chat.add("</s>", ANSWER)


def _add_turns(chat: Chat, template: str, text: str, pairs: list[tuple[str, str]]) -> None:
    for turn, (question, answer) in enumerate(pairs):
        if turn == 0:
            chat.user(template.replace("{question}", question).replace("{memory}", text), text)
        else:
            chat.user(question)
        chat.add("<assistant>")
        chat.add(answer + "</s>", ANSWER)


def encode(
    tokenizer: PreTrainedTokenizerFast, chats: list[Chat], rng: np.random.Generator
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Token ids and loss weights `[T]` of each chat; the weight of a token is its last character's."""
    backend, out = tokenizer.backend_tokenizer, []
    backend.no_padding()  # a padded call of `tokenizer` leaves padding switched on: it would be trained on
    for chat, encoding in zip(
        chats, backend.encode_batch([chat.text for chat in chats], add_special_tokens=False), strict=True
    ):
        ends = np.array([end for _, end in encoding.offsets]) - 1
        weights = chat.char_weights()[ends]
        told = weights < 0
        weights[told] = np.where(rng.random(told.sum()) < TOLD_SHARE, TOLD, 0.0)
        out.append((np.array(encoding.ids), weights))
    return out


def batches(
    config: BaseConfig, tokenizer: PreTrainedTokenizerFast, start: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ids and weights `[B, T]`, T a multiple of 32, B * T about `config.tokens`.

    Every group of 16 batches is seeded on its own.

    Args:
        config: The run.
        tokenizer: The tokenizer.
        start: First step, to go on with a stopped run (rounded down to a group).
    """
    prompts = json.loads(PROMPTS.read_text())
    pad = tokenizer.pad_token_id
    step = start // 16 * 16
    while step < config.steps:
        world = World(config.seed * 1_000_003 + step)
        order, drawn, ready = random.Random(step), [], []
        while len(ready) < 16:
            chats = [draw_chat(world, prompts, step / config.steps) for _ in range(16 * config.tokens // 190)]
            drawn = encode(tokenizer, chats, np.random.default_rng(step))
            drawn.sort(key=lambda pair: len(pair[0]))
            ready += _cut(drawn, config.tokens, pad)
        order.shuffle(ready)
        yield from ready[:16]
        step += 16


def _cut(drawn: list[tuple[np.ndarray, np.ndarray]], budget: int, pad: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Cut sequences sorted by length into padded batches."""
    out, rest = [], list(drawn)
    while rest:
        width = -(-len(rest[-1][0]) // 32) * 32
        rows = max(1, budget // width)
        chosen, rest = rest[-rows:], rest[:-rows]
        ids, weights = np.full((len(chosen), width), pad), np.zeros((len(chosen), width), dtype=np.float32)
        for row, (i, w) in enumerate(chosen):
            ids[row, : len(i)], weights[row, : len(w)] = i, w
        if len(chosen) == rows:
            out.append((torch.from_numpy(ids), torch.from_numpy(weights)))
    return out


def build_model(config: BaseConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.inner,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            initializer_range=0.02,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def weighted_loss(
    model: LlamaForCausalLM, ids_BT: torch.Tensor, where_S: torch.Tensor, weight_S: torch.Tensor
) -> torch.Tensor:
    """Weighted mean of the next-token losses at `where_S`, places of the predicted tokens in the flattened `[B, T]`.

    Padding is at the right and attention is causal, so no mask is needed.
    """
    hidden_BTD = model.model(input_ids=ids_BT, use_cache=False).last_hidden_state
    hidden_SD = hidden_BTD.flatten(0, 1)[where_S - 1]
    loss_S = functional.cross_entropy(model.lm_head(hidden_SD), ids_BT.flatten()[where_S], reduction="none")
    return (loss_S * weight_S).sum() / weight_S.sum()


def build_optimizers(model: LlamaForCausalLM, config: BaseConfig) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the layers' matrices and AdamW for the rest; `lr` is set by the loop."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    if config.optimizer == "muon":
        muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True)]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    return [torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.98), fused=True)]


def rate_at(config: BaseConfig, step: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < config.warmup:
        return config.rate * (step + 1) / config.warmup
    return config.rate * 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / (config.steps - config.warmup)))


def train(config: BaseConfig, folder: Path, *, save_every: int = 300, seconds: float = math.inf) -> None:
    """Train and save to `folder`; goes on from `folder/state.pt` where there is one."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    model = build_model(config, tokenizer)
    optimizers = build_optimizers(model, config)
    start = _resume(folder, model, optimizers)
    logger.info(
        "%s, %.2fM parameters, from step %d", asdict(config), sum(p.numel() for p in model.parameters()) / 1e6, start
    )
    loss_of: Callable[..., torch.Tensor] = (
        torch.compile(weighted_loss, dynamic=True) if config.compile else weighted_loss
    )
    began, tokens, losses, step = time.time(), 0, [], start
    for ids_BT, weights_BT in batches(config, tokenizer, start):
        where_S = weights_BT.flatten().nonzero()[:, 0]
        loss = loss_of(model, ids_BT, where_S, weights_BT.flatten()[where_S])
        _update(model, optimizers, loss, rate_at(config, step))
        step, tokens = step + 1, tokens + ids_BT.numel()
        losses.append(loss.item())
        if step % 50 == 0:
            elapsed = time.time() - began
            logger.info(
                "step %d loss %.4f tokens/s %.0f elapsed %.0f s",
                step,
                sum(losses[-50:]) / 50,
                tokens / elapsed,
                elapsed,
            )
        if step % save_every == 0 or step == config.steps:
            _save(folder, model, optimizers, step)
        if step % 600 == 0:
            logger.info("step %d %s", step, measure(model, tokenizer, count=100))
        if time.time() - began > seconds:
            return


def _update(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], loss: torch.Tensor, rate: float) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def _save(folder: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], step: int) -> None:
    model.save_pretrained(folder)
    state = {"step": step, "model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def _resume(folder: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> int:
    """Load the last state of a run, if any, and return its step."""
    if not (folder / "state.pt").exists():
        return 0
    state = torch.load(folder / "state.pt", weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


@torch.no_grad()
def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int, seed: int = HELD_OUT_SEED
) -> dict[str, float]:
    """Exact match of greedy answers to held-out questions, with 1 and with 5 documents as text in the prompt."""
    prompts = json.loads(PROMPTS.read_text())
    result = {}
    for documents in (1, 5):
        world, asked_, gold = World(seed, held_out=True), [], []
        for _ in range(count):
            entities = world.entities(documents)
            text = "\n ".join(world.document(entity) for entity in entities)
            ((question, answer),) = world.questions(world.rng.choice(entities), 1)
            content = prompts["answer"]["user"][0].replace("{question}", question).replace("{memory}", text)
            asked_.append([{"role": "user", "content": content}])
            gold.append(answer)
        said = generate(model, tokenizer, asked_)
        result[f"em_{documents}"] = sum(a == b for a, b in zip(said, gold, strict=True)) / count
    return result


def generate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: list[list[dict[str, str]]], *, batch: int = 50
) -> list[str]:
    """Greedy answers to chats."""
    tokenizer.padding_side = "left"
    said: list[str] = []
    for i in range(0, len(chats), batch):
        texts = tokenizer.apply_chat_template(chats[i : i + batch], tokenize=False, add_generation_prompt=True)
        inputs = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        said += tokenizer.batch_decode(ids, skip_special_tokens=True)
    tokenizer.padding_side = "right"
    return [text.strip() for text in said]


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--count", type=int, default=500, help="held-out questions")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this many seconds")
    for name, value in asdict(BaseConfig()).items():
        kind = (lambda text: text == "1") if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name}", type=kind, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(args.folder / "log.txt")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    if not args.eval_only:
        config = BaseConfig(**{name: getattr(args, name) for name in asdict(BaseConfig())})
        train(config, args.folder, seconds=args.seconds)
    model = LlamaForCausalLM.from_pretrained(args.folder, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.folder)
    logger.info(
        "held-out, seed %d, %d questions: %s", HELD_OUT_SEED, args.count, measure(model, tokenizer, count=args.count)
    )


if __name__ == "__main__":
    main()
