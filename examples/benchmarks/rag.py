"""One question from 20 documents, five ways on one base: what an answer costs cold and warm, and when compressing pays.

    python examples/benchmarks/rag.py                          # 58M parameters, two threads, about three minutes
    python examples/benchmarks/rag.py --preset 135m --dtype bfloat16 --png rag.png
    python examples/benchmarks/rag.py --preset 7b --device cuda --dtype bfloat16
    python examples/benchmarks/rag.py --model clara-small --rows nq.jsonl      # a checkpoint and real passages

* *cold*: compress all documents, rank, answer from the best k. *warm*: the same with latents in memory. *stored*: the
  same from a store on the disk, nothing in memory.
* *text*: the first k documents as text in the prompt. *rerank + text*: a cross-encoder of MiniLM's size (6 layers, 384
  wide) reads the question with each document first; then the best k as text.
* *straightforward*: the published method written down plainly (`published-checkpoints`): every document padded to the
  maximum, vocabulary logits in encoder passes, adapters beside the weights, everything compressed at every question.

All in turn, ``--repeats`` times; medians and ranges of the total and of the first token, and the most memory above what
was in use before. Without ``--model`` the model is random and built here: nothing is downloaded, and the answers mean
nothing. With it the question and its candidates are the first of the file that has ``--documents`` of them, and
*straightforward* is left out where the checkpoint's compressor runs no base model. The cross-encoder is random in any
case. Leaves out quality.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from peak import memory_now, memory_peak, reset_peak, synchronise
from random_model import add_sizes, build, documents, max_length, take_sizes
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from clara_model import ClaraModel
from clara_model.inference.clara import Clara
from clara_model.store import open_store

MIB = 1 << 20


def main() -> None:
    args = parse()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        ways = Ways(args, Path(folder))
        calls = {"cold": ways.cold, "warm": ways.warm, "stored": ways.stored, "text": ways.text}
        calls["rerank + text"] = ways.rerank_text
        if not ways.model.residuals.skips_base_model("compressor"):
            calls["straightforward"] = ways.straightforward
        result = {
            "run": {n: v for n, v in vars(args).items() if n not in ("json", "png", "rows")},
            "shape": {"rate": ways.model.config.compression_rate, "words": ways.tokens_of_a_text()},
            "seconds": measured(calls, args),
        }
        result["prompt_tokens"] = ways.prompt_tokens()
    result["pays_from_question"] = pays_from(result["seconds"])
    show(result)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if args.png:
        draw(result, args.png)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--model", help="a checkpoint instead of a random model; needs --rows")
    parser.add_argument("--rows", type=Path, help="JSON lines with question and docs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--png", type=Path, help="draw the totals here")
    args = take_sizes(parser)
    if bool(args.model) != bool(args.rows):
        parser.error("--model and --rows go together: a checkpoint reads real passages")
    return args


def made_up(args: argparse.Namespace) -> tuple[ClaraModel, list[str], str]:
    """A random model, documents and a question for it."""
    return build(args, args.rate), documents(args), " ".join(f"w{i}" for i in range(12))


def real(args: argparse.Namespace) -> tuple[ClaraModel, list[str], str]:
    """A checkpoint, and of a file the first question that has enough candidates, and so many of them."""
    model = Clara.load(args.model, device=args.device, dtype=args.dtype).model
    rows = map(json.loads, args.rows.read_text(encoding="utf-8").splitlines())
    row = next((row for row in rows if len(row["docs"]) >= args.documents), None)
    if row is None:
        raise SystemExit(f"no question of {args.rows} has {args.documents} candidates; pass fewer --documents")
    return model, row["docs"][: args.documents], row["question"]


class Ways:
    """The ways to answer; each takes the number of tokens to write."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.k, self.device = args.top_k, args.device
        self.model, self.texts, self.question = real(args) if args.model else made_up(args)
        self.clara, self.folder = Clara(self.model), folder
        with Clara(self.model, store=str(folder)) as filling:
            filling.compress(self.texts)
        shape = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
        shape.num_labels, shape.max_position_embeddings = 1, 2 * max_length(args)
        with torch.device(args.device):
            self.cross = BertForSequenceClassification(shape).to(self.model.base.dtype).eval()

    def cold(self, new: int) -> None:
        self.clara.store.clear()
        self.clara.answer(self.question, self.texts, self.k, max_new_tokens=new, min_new_tokens=new)

    def warm(self, new: int) -> None:
        self.clara.answer(self.question, self.texts, self.k, max_new_tokens=new, min_new_tokens=new)

    def stored(self, new: int) -> None:
        with open_store(str(self.folder)) as store:
            clara = Clara(self.model, store=store)
            clara.answer(self.question, self.texts, self.k, max_new_tokens=new, min_new_tokens=new)

    def text(self, new: int) -> None:
        self.clara.plain(" ".join([*self.texts[: self.k], self.question]), max_new_tokens=new, min_new_tokens=new)

    @torch.no_grad()
    def rerank_text(self, new: int) -> None:
        tokenizer = self.model.tokens.tokenizer
        ids = [tokenizer(f"{self.question} {text}")["input_ids"] for text in self.texts]
        width = max(map(len, ids))
        rows = torch.tensor([row + [0] * (width - len(row)) for row in ids], device=self.device) % 30_000
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids], device=self.device)
        scores = self.cross(rows, attention_mask=mask).logits[:, 0]
        best = scores.topk(self.k).indices.tolist()
        prompt = " ".join([*(self.texts[index] for index in best), self.question])
        self.clara.plain(prompt, max_new_tokens=new, min_new_tokens=new)

    @torch.no_grad()
    def straightforward(self, new: int) -> None:
        model, tokens = self.model, self.model.tokens
        latents = self._padded_pass("compressor", self.texts)
        query = self._padded_pass("query_reasoner", [self.question])
        scores = torch.cosine_similarity(query.flatten(1).float(), latents.flatten(1).float())
        best = scores.topk(self.k).indices
        prompt = torch.tensor([tokens.prompt_ids(model.config.prompts.answer, self.k, self.question)])
        with model.roles.acting_as("generator"):
            model.base.generate(
                inputs_embeds=model.fill_slots(prompt, latents[best]),
                attention_mask=torch.ones_like(prompt).to(self.device),
                max_new_tokens=new,
                min_new_tokens=new,
                do_sample=False,
                pad_token_id=tokens.tokenizer.pad_token_id,
            )

    def _padded_pass(self, role: str, texts: list[str]) -> Tensor:
        """States at the memory tokens from a whole forward pass, every row as long as the longest allowed."""
        model, pad = self.model, self.model.tokens.tokenizer.pad_token_id or 0
        rows = [model.tokens.document_ids(text) for text in texts]
        width = model.config.doc_max_length + model.config.memory_tokens + 2
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=self.device)
        mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=self.device)
        with model.roles.acting_as(role):
            out = model.base(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return out.hidden_states[-1][:, -model.config.memory_tokens :]

    def tokens_of_a_text(self) -> int:
        """The mean over the documents."""
        return round(sum(map(self.model.tokens.count, self.texts)) / len(self.texts))

    def prompt_tokens(self) -> dict[str, int]:
        """Of the generator, from latents and from text."""
        slots = self.clara.answer(self.question, self.texts, self.k, max_new_tokens=1).usage.prompt_tokens
        plain = self.clara.plain(" ".join([*self.texts[: self.k], self.question]), max_new_tokens=1).usage.prompt_tokens
        return {"latents": slots, "text": plain}


def measured(calls: dict[str, Callable[[int], None]], args: argparse.Namespace) -> dict[str, dict[str, list[float]]]:
    """Seconds of the first token and of the whole answer, and MiB of memory above what was in use, each way in turn."""
    found: dict[str, dict[str, list[float]]] = {name: {"first": [], "total": [], "memory": []} for name in calls}
    for call in calls.values():
        call(1)  # the first call of its kind allocates
    for _ in range(args.repeats):
        for name, call in calls.items():
            for kind, new in (("first", 1), ("total", args.new_tokens)):
                reset_peak(args.device)
                before = memory_now(args.device)
                found[name][kind].append(seconds(call, new, args.device))
                found[name]["memory"].append((memory_peak(args.device) - before) / MIB)
    return found


def seconds(call: Callable[[int], None], new: int, device: str) -> float:
    synchronise(device)
    start = time.perf_counter()
    call(new)
    synchronise(device)
    return time.perf_counter() - start


def pays_from(found: dict[str, dict[str, list[float]]]) -> int | None:
    """The first question about the same documents at which compressing has cost no more than rerank + text in all."""
    cold, warm, text = (median(found[name]["total"]) for name in ("cold", "warm", "rerank + text"))
    if warm >= text:
        return None
    return next(n for n in range(1, 10_000) if cold + (n - 1) * warm <= n * text)


def show(result: dict) -> None:
    run, shape, found = result["run"], result["shape"], result["seconds"]
    base = median(found["rerank + text"]["total"]), median(found["rerank + text"]["first"])
    print(
        f"{run['model'] or run['preset']}, {run['dtype']} on {run['device']}; {run['documents']} documents of about "
        f"{shape['words']} tokens, rate {shape['rate']}, k {run['top_k']}, {run['new_tokens']} new tokens; prompts of "
        f"{result['prompt_tokens']['latents']} tokens from latents, {result['prompt_tokens']['text']} from text"
    )
    print(f"{'seconds, median (range)':<24}{'first token':>26}{'total':>26}{'/ rerank + text':>17}{'peak MiB':>10}")
    for name, kinds in found.items():
        cells = [f"{median(kinds[k]):.3f} ({min(kinds[k]):.3f} to {max(kinds[k]):.3f})" for k in ("first", "total")]
        share, memory = median(kinds["total"]) / base[0], max(kinds["memory"])
        print(f"{name:<24}{cells[0]:>26}{cells[1]:>26}{share:>17.2f}{memory:>10.0f}")
    print(f"first token, warm / rerank + text: {median(found['warm']['first']) / base[1]:.2f}")
    if "straightforward" in found:
        plain, cold = (median(found[name]["total"]) for name in ("straightforward", "cold"))
        print(f"straightforward / cold: {plain / cold:.2f}")
    print(f"compressing pays from question {result['pays_from_question']} about the same documents on")


def draw(result: dict, path: Path) -> None:
    """Bars of the total, the first token's part darker."""
    from matplotlib.figure import Figure  # an extra

    found = result["seconds"]
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    names = list(found)[::-1]
    axes.barh(names, [median(found[name]["total"]) for name in names], color="#a9c4e4", label="whole answer")
    axes.barh(names, [median(found[name]["first"]) for name in names], color="#2b5d9b", label="first token")
    axes.set_xlabel("seconds (median)")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    main()
