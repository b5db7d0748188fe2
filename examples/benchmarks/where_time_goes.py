"""Where the time of compressing, of a decoding step and of many answers in one batch goes, by kind of operation.

    python examples/benchmarks/where_time_goes.py --threads 1                  # 58M parameters, two minutes
    python examples/benchmarks/where_time_goes.py --preset 135m --threads 1 --together 1

Shares are torch's profiler's, of the time within operations; what Python spends between them is the rest of a token's
time, which is taken without the profiler. CPU time on a CPU. A random model (`random_model.py`): costs, not answers.
"""

import argparse
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from peak import synchronise
from random_model import add_sizes, build, documents, take_sizes
from torch.profiler import profile

from clara_model.inference.clara import Clara

KINDS = {
    "matrix products": ("aten::mm", "aten::bmm"),
    "what adapters add": ("aten::addmm_",),
    "attention": ("aten::_scaled_dot_product",),
    "joining (the cache)": ("aten::cat",),
}
"""How the names of operations begin; all others are small ones: norms, rotations, gates, views."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_sizes(parser)
    parser.add_argument("--rate", type=int, default=16, help="document tokens per memory token")
    parser.add_argument("--together", type=int, default=64, help="questions in one batch (default: %(default)s)")
    args = take_sizes(parser)
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    work = Work(args)
    print(f"{args.preset}, {args.dtype} on {args.device}; k {args.top_k}, {args.new_tokens} new tokens")
    shares("compressing", lambda: work.clara.model.compress(work.texts))
    shares("first token", lambda: work.write(1, 1))
    shares("whole answer", lambda: work.write(1, args.new_tokens))
    for role in ("generator", "base"):
        print(f"a token after the first, {role}: {1000 * work.token(role):.1f} ms")
    print(f"a question's own pass: {work.spent(lambda: work.clara.encode_queries(work.questions[:1])):.3f} s")
    for count in sorted({1, args.together}):
        whole = work.spent(lambda count=count: work.write(count, args.new_tokens))
        print(f"{count} at once: {whole / count:.3f} s of writing a question")
    shares(f"{args.together} whole answers", lambda: work.write(args.together, args.new_tokens))


class Work:
    """A model with latents at hand, and prompts that read them."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.device, self.new = args.device, args.new_tokens
        self.clara = Clara(build(args, args.rate), cache_bytes=0)
        self.texts = documents(args)[: args.top_k]
        self.latents = self.clara.compress(self.texts).vectors
        self.questions = [" ".join(f"w{first + place}" for place in range(12)) for first in range(args.together)]
        tokens, prompt = self.clara.model.tokens, self.clara.model.config.prompts.answer
        self.prompts = [tokens.prompt_ids(prompt, len(self.texts), question) for question in self.questions]

    def write(self, count: int, new: int, role: str = "generator") -> None:
        """So many answers in one batch."""
        how = {"max_new_tokens": new, "min_new_tokens": new, "role": role}
        self.clara.model.generate_ids(self.prompts[:count], [self.latents] * count, **how)

    def token(self, role: str) -> float:
        """Seconds of one after the first, by two lengths."""
        first, whole = (self.spent(lambda new=new: self.write(1, new, role)) for new in (1, self.new))
        return (whole - first) / (self.new - 1)

    def spent(self, call: Callable[[], object]) -> float:
        """Seconds of a call, the less of two."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        found = []
        for _ in range(2):
            synchronise(self.device)
            start = clock()
            call()
            synchronise(self.device)
            found.append(clock() - start)
        return min(found)


def shares(name: str, call: Callable[[], object]) -> None:
    """Print what each kind of operation takes of a call, adapters' own small products among the matrix products."""
    with profile() as found:
        call()
    seconds: defaultdict[str, float] = defaultdict(float)
    for one in found.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if one.key.startswith(parts)), "small ones")
        seconds[kind] += (one.self_device_time_total or one.self_cpu_time_total) / 1e6
    whole = sum(seconds.values())
    cells = ", ".join(f"{kind} {value / whole:.0%}" for kind, value in sorted(seconds.items(), key=lambda x: -x[1]))
    print(f"{name}, {whole:.2f} s: {cells}", flush=True)


if __name__ == "__main__":
    main()
