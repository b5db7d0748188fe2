"""Pre-train the tiny base model from nothing: it learns to read documents in its context and to answer about them.

Its diet is the chats of `chats.py`, in three phases: reading one document and then several; telling things apart by
name, on short contexts where nothing but the name helps; and both together. Without the second phase it answers from
any document that has a value of the right kind. Names are learned at once after a wait that differs from run to run
(docs/experiments), so that phase ends by its loss. Answers carry most of the loss. Logits are computed only where the
loss has a weight, batches hold sequences of similar length. It trains on a GPU where there is one.

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
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from chats import TOLD, Chat, naming_chat, reading_chat, telling_apart_chat
from muon import Muon
from tokenizer import PROMPTS, build_tokenizer
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from world import World

logger = logging.getLogger("base")

RUNS = Path.home() / ".cache" / "clara-tiny" / "base"
HELD_OUT_SEED = 20_000
TOLD_SHARE = 0.1
"""Share of a document's tokens that are trained on at all."""
WINDOW = 100
"""Steps whose mean loss ends a phase."""
DRAWN_TOGETHER = 16
"""Batches that are drawn and sorted by length together."""


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """What is trained and for how long."""

    seed: int = 1
    """Seed of the weights and of the training world."""
    tokens: int = 4096
    """Padded tokens per step."""
    hidden: int = 192
    """Hidden size."""
    layers: int = 4
    """Decoder layers."""
    heads: int = 6
    """Attention heads."""
    inner: int = 512
    """Width of the gated feed-forward layer."""
    compile: bool = True
    """Fuse the step with `torch.compile`; by default on the CPU alone, a GPU does not win the compiling back."""
    share: float = 1.0
    """Of every phase's steps; few walk through it."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with its own chats and learning rate; it starts with fresh optimizers."""

    name: str
    draw: Callable[[World, dict, float], Chat]
    """Draws a chat, given how much of the phase is done, 0 to 1."""
    steps: int
    """Optimizer steps, at most."""
    rate: float
    """Peak learning rate, after a linear warm-up."""
    last_rate: float
    """Learning rate at the end of a cosine."""
    warmup: int = 50
    """Steps of warm-up."""
    until: float = 0.0
    """The phase is over once the mean loss of its last `WINDOW` steps is below this."""


PHASES = (
    Phase(name="reading", draw=reading_chat, steps=5000, rate=3e-3, last_rate=0.0, warmup=100),
    Phase(name="naming", draw=naming_chat, steps=6000, rate=2e-3, last_rate=2e-3, until=0.2),
    Phase(name="telling apart", draw=telling_apart_chat, steps=1200, rate=2e-3, last_rate=0.0),
)


def phases(config: BaseConfig) -> list[Phase]:
    """The run's phases."""
    return [replace(phase, steps=max(1, round(phase.steps * config.share))) for phase in PHASES]


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


class Groups(Dataset):
    """A phase's batches in groups of `DRAWN_TOGETHER`, each seeded on its own, so any process may draw any of them."""

    def __init__(self, config: BaseConfig, number: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.config, self.number, self.tokenizer = config, number, tokenizer
        self.phase, self.prompts = phases(config)[number], json.loads(PROMPTS.read_text())

    def __len__(self) -> int:
        return -(-self.phase.steps // DRAWN_TOGETHER)

    def __getitem__(self, group: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Ids and weights `[B, T]` of its batches, T a multiple of 32, B * T about `config.tokens`."""
        step, tokens = group * DRAWN_TOGETHER, self.config.tokens
        seed = self.config.seed * 1_000_003 + self.number * 100_003 + step
        world, ready = World(seed), []
        while len(ready) < DRAWN_TOGETHER:
            done = step / self.phase.steps
            chats = [self.phase.draw(world, self.prompts, done) for _ in range(DRAWN_TOGETHER * tokens // 190)]
            drawn = encode(self.tokenizer, chats, np.random.default_rng(seed))
            drawn.sort(key=lambda pair: len(pair[0]))
            ready += _cut(drawn, tokens, self.tokenizer.pad_token_id)
        random.Random(step).shuffle(ready)
        return ready[:DRAWN_TOGETHER]


def batches(
    config: BaseConfig, number: int, tokenizer: PreTrainedTokenizerFast, start: int = 0, workers: int = 0
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a phase: ids and weights `[B, T]`.

    Args:
        config: The run.
        number: Of the phase.
        tokenizer: The tokenizer.
        start: First step, to go on with a stopped run.
        workers: Processes that draw ahead; the batches are the same with any number.
    """
    groups = Groups(config, number, tokenizer)
    first, skipped = divmod(start, DRAWN_TOGETHER)
    for group in DataLoader(groups, batch_size=None, sampler=range(first, len(groups)), num_workers=workers):
        yield from group[skipped:]
        skipped = 0


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


def build_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices and AdamW for the rest; `lr` is set by the loop."""
    named = list(model.named_parameters())
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in named if p.ndim != 2 or "embed" in n or "lm_head" in n]
    return [
        Muon(matrices, lr=1.0, weight_decay=0.01),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def rate_at(phase: Phase, step: int) -> float:
    """Linear warm-up, then a cosine to the last rate."""
    if step < phase.warmup:
        return phase.rate * (step + 1) / phase.warmup
    share = (step - phase.warmup) / (phase.steps - phase.warmup)
    return phase.last_rate + (phase.rate - phase.last_rate) * 0.5 * (1 + math.cos(math.pi * share))


def train(config: BaseConfig, folder: Path, *, device: str = "cpu", workers: int = 0, save_every: int = 300) -> None:
    """Train and save to `folder`; goes on from `folder/state.pt` where there is one."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    model = build_model(config, tokenizer).to(device)
    logger.info("%s, %.2fM parameters", asdict(config), sum(p.numel() for p in model.parameters()) / 1e6)
    loss_of: Callable[..., torch.Tensor] = (
        torch.compile(weighted_loss, dynamic=True) if config.compile else weighted_loss
    )
    saved = folder / "state.pt"
    state = torch.load(saved, weights_only=True, map_location=device) if saved.exists() else None
    for number, phase in enumerate(phases(config)):
        if state is not None and number < state["phase"]:
            continue
        optimizers = build_optimizers(model)
        step, losses = 0, deque[float](maxlen=WINDOW)
        if state is not None:
            step, state = _resume(state, model, optimizers, losses), None
        logger.info("%s from step %d of %d", phase.name, step, phase.steps)
        for ids_BT, weights_BT in batches(config, number, tokenizer, step, workers):
            if step >= phase.steps or _learned(phase, losses):
                break
            where_S = weights_BT.flatten().nonzero()[:, 0]
            weight_S = weights_BT.flatten()[where_S]
            loss = loss_of(model, ids_BT.to(device), where_S.to(device), weight_S.to(device))
            _update(model, optimizers, loss, rate_at(phase, step))
            step += 1
            losses.append(loss.item())
            if step % 50 == 0:
                logger.info("%s, step %d, loss %.4f", phase.name, step, fmean(list(losses)[-50:]))
            if step % save_every == 0 or step == phase.steps or _learned(phase, losses):
                _save(folder, model, optimizers, number, step, losses)
            if step % (2 * save_every) == 0:
                logger.info("%s, step %d, %s", phase.name, step, measure(model, tokenizer, count=100))


def _learned(phase: Phase, losses: deque[float]) -> bool:
    return len(losses) == WINDOW and fmean(losses) < phase.until


def _update(model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], loss: torch.Tensor, rate: float) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()


def _save(
    folder: Path,
    model: LlamaForCausalLM,
    optimizers: list[torch.optim.Optimizer],
    phase: int,
    step: int,
    losses: deque[float],
) -> None:
    model.save_pretrained(folder)
    states = [optimizer.state_dict() for optimizer in optimizers]
    state = {"phase": phase, "step": step, "losses": list(losses), "model": model.state_dict(), "optimizers": states}
    torch.save(state, folder / "state.tmp")
    (folder / "state.tmp").replace(folder / "state.pt")


def _resume(state: dict, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], losses: deque[float]) -> int:
    """Load a saved state and return its step."""
    losses.extend(state["losses"])
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return state["step"]


@torch.no_grad()
def measure(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *, count: int, seed: int = HELD_OUT_SEED
) -> dict[str, float]:
    """Exact match of greedy answers to held-out questions, with 1 and with 5 documents as text in the prompt.

    Those of 5 are all about people, all about places or all about works.
    """
    prompts = json.loads(PROMPTS.read_text())
    result = {}
    for documents in (1, 5):
        world, asked_, gold = World(seed, held_out=True), [], []
        for _ in range(count):
            entities = world.entities(documents, alike=True)
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
        ids = model.generate(**inputs.to(model.device), max_new_tokens=12, do_sample=False)
        said += tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    tokenizer.padding_side = "right"
    return [text.strip() for text in said]


def main() -> None:
    """Train, save, measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=RUNS)
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--count", type=int, default=500, help="held-out questions")
    parser.add_argument("--threads", type=int, default=2)
    gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if gpu else "cpu", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=int, default=4 if gpu else 0, help="processes that draw batches ahead (default: %(default)s)"
    )
    for name, value in asdict(BaseConfig(compile=not gpu)).items():
        kind = (lambda text: text == "1") if isinstance(value, bool) else type(value)
        parser.add_argument(f"--{name}", type=kind, default=value)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    handlers = [logging.StreamHandler(), logging.FileHandler(args.folder / "log.txt")]
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", handlers=handlers)
    if not args.eval_only:
        config = BaseConfig(**{name: getattr(args, name) for name in asdict(BaseConfig())})
        train(config, args.folder, device=args.device, workers=args.workers)
    model = LlamaForCausalLM.from_pretrained(args.folder, dtype=torch.float32).to(args.device)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.folder)
    logger.info(
        "held-out, seed %d, %d questions: %s", HELD_OUT_SEED, args.count, measure(model, tokenizer, count=args.count)
    )


if __name__ == "__main__":
    main()
