"""The tables of docs/scale.md: what a corpus of very many passages takes, from figures of one passage.

    python examples/benchmarks/scale.py [--passages 1000000000] [--slots 16] [--width 4096]

Each figure says where it is from: this project's own measurements, the paper (arXiv 2511.18659, one H100, 20 documents
compressed in 923 ms at rate 16), or arithmetic. Leaves out prices and the network between nodes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

from clara_model.search.sketch import BITS, SIZE
from clara_model.store.encodings import encoded_bytes

TYPES = ("bfloat16", "int8", "int4")
TEXT_BYTES = 1000
"""Of a passage of 256 tokens, UTF-8."""
BOOKKEEPING = 400
"""Bytes in SQLite for each passage beside its text (measured: 45,918 passages of 9,760 documents, 29 MB with text)."""
INDEX_BYTES = SIZE + BITS // 8 + 4 + 8
"""Of a passage in the coarse index: bytes, signs, scale, number."""
PAPER_MS = 923 / 20
"""To compress one document on one H100, as the paper timed 20 together: small batches."""
PARAMETERS, TOKENS, FLOPS, SHARE = 7.2e9, 272, 989e12, 0.4
"""Of the base, of a passage with its memory tokens; bfloat16 peak of an H100, and the share of it that is reached."""
ROTATE_MS = 0.75
"""To sketch one block of 16 x 4096 on one CPU core (measured)."""
SCAN_MS_PER_MILLION = 10.2
"""Of the coarse scan on two cores, p95 (examples/benchmarks/search.py)."""
LATE_SECONDS_PER_MILLION = 4.6
"""Of the coarse scan on one core where slots are compared, 16 of a block with 16 of a question (search.py)."""
DIGEST_BYTES = 300
"""In the memory of `clara compress` for each document of the store: id, digest and their place in a dictionary."""
SHARD = 10_000_000
"""Passages in one store of the plan."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def amount(nbytes: float) -> str:
    """Bytes in the unit that reads best."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if nbytes >= size:
            return f"{nbytes / size:,.1f} {unit}"
    return f"{nbytes:,.0f} bytes"


def disk(passages: int, slots: int, width: int) -> str:
    """Bytes at each element type."""
    rows = []
    for kind in TYPES:
        block = encoded_bytes(kind, slots, width)
        whole = passages * (block + TEXT_BYTES + BOOKKEEPING)
        shard = SHARD * (block + TEXT_BYTES + BOOKKEEPING)
        rows.append([kind, f"{block:,}", amount(passages * block), amount(whole), amount(shard)])
    head = ["type", "bytes of a block", "latents", "with text and bookkeeping", f"one store of {SHARD:,}"]
    return table(head, rows)


def work(passages: int, slots: int, width: int) -> str:
    """Hours and seconds."""
    arithmetic = 2 * PARAMETERS * TOKENS / (FLOPS * SHARE)
    shards = -(-passages // SHARD)
    rotate = ROTATE_MS * slots * width / 65_536
    late_bytes = slots * BITS // 8 + 8
    late_scan = SHARD / 1e6 * LATE_SECONDS_PER_MILLION * (slots / 16) ** 2 / 2
    rows = [
        ["compress, as the paper timed it", f"{passages * PAPER_MS / 3.6e6:,.0f} GPU-hours", "paper; small batches"],
        [f"compress, at {SHARE:.0%} of an H100", f"{passages * arithmetic / 3600:,.0f} GPU-hours", "arithmetic"],
        ["the same on 64 GPUs", f"{passages * arithmetic / 3600 / 64 / 24:,.1f} days", "arithmetic"],
        ["index: sketches", f"{passages * rotate / 3.6e6:,.0f} core-hours", "measured"],
        ["index: size", amount(passages * INDEX_BYTES), f"{INDEX_BYTES} bytes of a passage"],
        ["stores", f"{shards:,}", f"{SHARD:,} passages each"],
        ["one question: signs read", amount(passages * BITS / 8), "all signs"],
        [
            "one question: scan",
            f"{passages / 1e6 * SCAN_MS_PER_MILLION / 1000:,.1f} s on two cores",
            "measured by search.py",
        ],
        ["the same, a store on two cores of its own", f"{SHARD / 1e6 * SCAN_MS_PER_MILLION:,.0f} ms", "all at once"],
        ["`ranking: late`, index: size", amount(passages * late_bytes), f"{late_bytes:,} bytes of a passage"],
        ["the same, scan of a store on two cores of its own", f"{late_scan:,.0f} s", "measured by search.py"],
        ["one question: whole latents read", amount(200 * encoded_bytes("bfloat16", slots, width)), "the best 200"],
        ["memory of `clara compress` at its start", amount(SHARD * DIGEST_BYTES), "a store, a passage a document"],
    ]
    return table(["what", "figure", "from"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passages", type=int, default=1_000_000_000)
    parser.add_argument("--slots", type=int, default=16, help="memory tokens of a passage")
    parser.add_argument("--width", type=int, default=4096, help="hidden size")
    args = parser.parse_args()
    print(disk(args.passages, args.slots, args.width))
    print()
    print(work(args.passages, args.slots, args.width))


if __name__ == "__main__":
    main()
