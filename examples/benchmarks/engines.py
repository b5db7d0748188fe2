"""One prompt on a CPU: how long reading it and writing a token take, by the ways of decoding that there are.

    python examples/benchmarks/engines.py                       # clara-small, one thread and two: seven minutes
    python examples/benchmarks/engines.py --rows nq.jsonl --questions 80 --threads 1 --json engines.json

Each way is a process of its own; they take turns, and medians count: processor seconds with one thread, seconds with
more. A prompt holds the latents of the best passages, or their text. The answers to the bundled questions, and to those
of ``--rows`` (JSON lines with ``question`` and ``docs``), from compressing to the text, are compared with those of
transformers in float32. Leaves out how good answers are (`clara-eval`) and many prompts at once (`serving.py`).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

WAYS: dict[str, dict[str, str]] = {
    "transformers, float32": {"dtype": "float32"},
    "transformers, bfloat16": {"dtype": "bfloat16"},
    "plain decoder, float32, exact": {"dtype": "float32", "decoding": "exact"},
    "plain decoder, float32, quick": {"dtype": "float32", "decoding": "quick"},
    "plain decoder, bfloat16, quick": {"dtype": "bfloat16", "decoding": "quick"},
}
"""By name, the options of loading; `transformers` generates by the base's own layers."""
SHORT, LONG = 4.9, 16
"""New tokens of an answer: clara-small's mean, and a long one."""


def main() -> None:
    args = parse()
    if args.worker:
        work(args)
        return
    workers = {name: Worker(name, args) for name in args.ways}
    results: dict[str, dict[str, Any]] = {name: dict(worker.loaded) for name, worker in workers.items()}
    for threads in args.threads:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in workers}
        for number in range(args.rounds + 1):
            for name, worker in workers.items():
                seconds = worker.ask("time", threads)
                if number:  # the first warms up
                    rounds[name].append(seconds)
        for name, rows in rounds.items():
            results[name][f"{threads} threads"] = {key: median(row[key] for row in rows) for key in rows[0]}
    answers = {name: worker.ask("answers") for name, worker in workers.items()}
    first = next(iter(answers.values()))
    for name, worker in workers.items():
        results[name]["same"] = sum(map(str.__eq__, answers[name], first))
        results[name]["questions"], results[name]["memory"] = len(first), worker.ask("memory")
        worker.end()
    for threads in args.threads:
        show(results, threads)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="clara-small")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS), metavar="WAY")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=Path, help="further questions with documents, JSON lines")
    parser.add_argument("--questions", type=int, default=80, help="of --rows, at most")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


class Worker:
    """A process that has loaded a model one way."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        rows = ["--rows", str(args.rows), "--questions", str(args.questions)] if args.rows else []
        command = [sys.executable, __file__, "--model", args.model, "--worker", name, *rows]
        surroundings = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
        )
        self.loaded = self._answer()

    def ask(self, *what: object) -> Any:
        assert self._process.stdin is not None
        print(json.dumps(what), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def end(self) -> None:
        self._process.communicate()


# -- in a worker -------------------------------------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    import torch

    from clara_model import Clara

    def say(what: object) -> None:
        print(json.dumps(what), flush=True)

    torch.set_num_threads(1)
    start = time.process_time()
    clara = Clara.load(args.model, device="cpu", **WAYS[args.worker])
    say({"load": time.process_time() - start})
    own: dict[str, Any] = {"use_cache": True} if args.worker.startswith("transformers") else {}
    demo, model = demo_of(args.model), clara.model
    texts, question = [document["text"] for document in demo["documents"]], demo["questions"][0]["question"]
    chosen = best(model, question, texts)
    prompt = model.config.prompts.answer
    latents = model.tokens.prompt_ids(prompt, len(chosen), question), [model.compress(chosen).vectors]
    most = model.base.config.max_position_embeddings - LONG
    as_text = (
        model.tokens.text_prompt_ids(prompt, "\n\n".join(chosen[:k]), question) for k in range(len(chosen), 0, -1)
    )
    text = next(ids for ids in as_text if len(ids) <= most), []
    for line in sys.stdin:
        what, *rest = json.loads(line)
        if what == "time":
            torch.set_num_threads(rest[0])
            clock = time.process_time if rest[0] == 1 else time.perf_counter
            times: dict[str, float] = {}
            for name, (ids, blocks) in {"latents": latents, "text": text}.items():

                def write(new: int, ids: list[int] = ids, blocks: list[Any] = blocks) -> None:
                    model.generate_ids([ids], blocks, max_new_tokens=new, eos_token_id=None, **own)

                read, whole = seconds(clock, write, 1), seconds(clock, write, LONG)
                times |= {name: read, f"{name} step": (whole - read) / (LONG - 1), f"{name} positions": len(ids)}
            say(times)
        elif what == "answers":
            asked = [(one["question"], texts) for one in demo["questions"]] + rows_of(args)
            found = [(question, model.compress(best(model, question, documents))) for question, documents in asked]
            say([model.generate([question], [read], max_new_tokens=LONG, **own).texts[0] for question, read in found])
        elif what == "memory":
            say(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def best(model: Any, question: str, documents: list[str]) -> list[str]:
    """The passages that are read."""
    scores = model.score(model.encode_queries([question]), model.compress(documents))[0]
    return [documents[place] for place in scores.topk(min(model.config.top_k, len(documents))).indices.tolist()]


def seconds(clock: Callable[[], float], write: Callable[[int], None], new: int) -> float:
    start = clock()
    write(new)
    return clock() - start


def demo_of(model: str) -> dict[str, Any]:
    """The bundled passages and questions, clara-small's for any other model."""
    bundled = Path(__file__).parents[2] / "clara_model" / "bundled"
    path = bundled / model / "demo.json"
    return json.loads((path if path.is_file() else bundled / "clara-small" / "demo.json").read_text(encoding="utf-8"))


def rows_of(args: argparse.Namespace) -> list[tuple[str, list[str]]]:
    if not args.rows:
        return []
    lines = args.rows.read_text(encoding="utf-8").splitlines()[: args.questions]
    return [(row["question"], row["docs"]) for row in map(json.loads, lines)]


# -- the table ---------------------------------------------------------------------------------------------------


def show(results: dict[str, dict[str, Any]], threads: int) -> None:
    """Milliseconds, how many times as fast as the first way an answer is there, equal answers, load and memory."""
    key, first = f"{threads} threads", next(iter(results.values()))
    sizes = [int(first[key][f"{kind} positions"]) for kind in ("latents", "text")]
    clock = "processor milliseconds" if threads == 1 else "milliseconds"
    print(f"\n{threads} thread{'s' if threads > 1 else ''}, {clock}; a prompt of {sizes[0]} positions from latents, "
          f"{sizes[1]} from text; times as fast: an answer of {SHORT} and of {LONG} tokens")  # fmt: skip
    rest = f"{'a token':>9}{'times as fast':>16}"
    head = f"{'latents: read':>14}{rest}{'text: read':>12}{rest}"
    print(f"{'':<32}{head}{'same answers':>15}{'load':>8}{'peak MB':>9}")
    for name, result in results.items():
        cells = ""
        for kind, width in (("latents", 14), ("text", 12)):
            row, base = result[key], first[key]
            faster = [answer(base, kind, new) / answer(row, kind, new) for new in (SHORT, LONG)]
            read, step = 1000 * row[kind], 1000 * row[f"{kind} step"]
            cells += f"{read:>{width}.0f}{step:>9.1f}{faster[0]:>9.2f}{faster[1]:>7.2f}"
        same = f"{result['same']} of {result['questions']}"
        print(f"{name:<32}{cells}{same:>15}{result['load']:>6.1f} s{result['memory']:>9.0f}")


def answer(row: dict[str, float], kind: str, new: float) -> float:
    """Seconds of an answer."""
    return row[kind] + (new - 1) * row[f"{kind} step"]


if __name__ == "__main__":
    main()
