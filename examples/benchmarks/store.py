"""What the latent store costs beside plain files: four figures, each as a ratio or bound measured in one run.

1. Fetching 20 random documents of 128 KiB (rate 16 at hidden 4096, bfloat16) out of 20,000, checksums and tensors
   included, against 20 plain reads of the same bytes from one memory-mapped file, all in the page cache. Goal: 3x.
2. Bulk writing of those documents, until they are on the disk, against sequential writing of the same bytes, until they
   are on the disk. The store writes 256 in one call. Goal: 0.6 of the sequential rate.
3. Opening a store of 100,000 rows of 8 KiB. Goal: 50 ms.
4. Private memory that a process holds after 200 fetches from a tenth of the rows and from all. Goal: no growth.

    python examples/benchmarks/store.py --folder /tmp/latents            # 6 GB of disk for some minutes
    python examples/benchmarks/store.py --folder /tmp/latents --rows 500 # a quick look; says nothing about the goals
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from clara_model.store import Block, open_store
from clara_model.windows import content_key

SLOTS, WIDTH = 16, 4096
NBYTES = SLOTS * WIDTH * 2
AT_ONCE = 256
FETCHED = 20
ROUNDS = 100
FINGERPRINT = "benchmark"


def vectors(rows: int) -> Iterator[torch.Tensor]:
    """Blocks that differ, cut from one random stretch so that making them costs nothing."""
    stretch = torch.randn(SLOTS * WIDTH + rows * 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    for row in range(rows):
        yield stretch[row * 8 : row * 8 + SLOTS * WIDTH].view(SLOTS, WIDTH)


def write_flat(file: Path, rows: int) -> float:
    """MB/s of sequential writing."""
    pieces = [vector.contiguous().view(torch.uint8).numpy() for vector in vectors(rows)]
    start = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for piece in pieces:
            out.write(piece)
        os.fsync(out.fileno())
    return rows * NBYTES / 1e6 / (time.perf_counter() - start)


def write_store(folder: Path, rows: int) -> float:
    """MB/s of bulk writing into a new store."""
    blocks = [(content_key(str(row)), Block(vector, 256)) for row, vector in enumerate(vectors(rows))]
    start = time.perf_counter()
    with open_store(folder) as store:
        for first in range(0, rows, AT_ONCE):
            store.put(FINGERPRINT, dict(blocks[first : first + AT_ONCE]))
    return rows * NBYTES / 1e6 / (time.perf_counter() - start)


def writing(folder: Path, rows: int) -> dict[str, float]:
    """Both ways in turn, twice; the better of each, since whatever else uses the disk only slows."""
    flat, store = [], []
    for _ in range(2):
        shutil.rmtree(folder / "store", ignore_errors=True)
        (folder / "flat").unlink(missing_ok=True)
        os.sync()
        flat.append(write_flat(folder / "flat", rows))
        os.sync()
        store.append(write_store(folder / "store", rows))
    return {"flat_mb_s": max(flat), "store_mb_s": max(store), "ratio": max(store) / max(flat)}


def fetching(folder: Path, rows: int) -> dict[str, float]:
    """Both ways in turn; medians of milliseconds."""
    keys = [content_key(str(row)) for row in range(rows)]
    draw = random.Random(0)
    with open_store(folder / "store") as store, (folder / "flat").open("rb") as file:
        flat = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for start in range(0, len(flat), 1 << 24):  # both into the page cache
            flat[start : start + (1 << 24)]
        for first in range(0, rows, AT_ONCE):
            store.get(FINGERPRINT, keys[first : first + AT_ONCE])
        plain, stored = [], []
        for _ in range(ROUNDS):
            chosen = draw.sample(range(rows), FETCHED)
            plain.append(timed(lambda rows=chosen: [flat[row * NBYTES : (row + 1) * NBYTES] for row in rows]))
            chosen = draw.sample(range(rows), FETCHED)
            stored.append(timed(lambda rows=chosen: store.get(FINGERPRINT, [keys[row] for row in rows])))
    one, other = statistics.median(plain), statistics.median(stored)
    return {"mmap_ms": one, "store_ms": other, "ratio": other / one}


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


def opening(folder: Path, rows: int) -> dict[str, float]:
    """Median milliseconds of opening and of opening with a first fetch."""
    small = torch.randn(2, 2048).bfloat16()
    with open_store(folder) as store:
        for first in range(0, rows, 1000):
            numbers = range(first, min(rows, first + 1000))
            store.put(FINGERPRINT, {content_key(str(number)): Block(small, 256) for number in numbers})

    def opened() -> None:
        with open_store(folder) as store:
            if store.fingerprint is None:
                raise RuntimeError("the store is empty")

    def fetched() -> None:
        with open_store(folder) as store:
            store.get(FINGERPRINT, [content_key("7")])

    return {
        "rows": rows,
        "open_ms": statistics.median(timed(opened) for _ in range(20)),
        "open_and_fetch_ms": statistics.median(timed(fetched) for _ in range(20)),
    }


def held(folder: Path, rows: int) -> dict[str, float]:
    """Private memory in MB of a process of its own, after fetches from few rows and from all."""
    few, all_ = (
        json.loads(subprocess.run([sys.executable, __file__, "--held", str(folder), str(limit)],
                                  check=True, capture_output=True, text=True).stdout)
        for limit in (max(FETCHED, rows // 10), rows)
    )  # fmt: skip
    return {"a_tenth_mb": few, "all_mb": all_, "growth": all_ / few}


def print_held(folder: Path, rows: int) -> None:
    """The process of `held`."""
    draw = random.Random(0)
    with open_store(folder) as store:
        for _ in range(200):
            store.get(FINGERPRINT, [content_key(str(row)) for row in draw.sample(range(rows), FETCHED)])
        status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    print(int(line.split()[1]) / 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to write; what is in its subfolders here is replaced")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--small-rows", type=int, default=100_000)
    parser.add_argument("--held", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.held:
        print_held(Path(args.held[0]), int(args.held[1]))
        return
    if args.folder is None:
        parser.error("--folder is needed")
    args.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(args.folder / "small", ignore_errors=True)
    torch.set_num_threads(1)
    steps: dict[str, tuple[Callable[[], dict[str, float]], str, float, bool]] = {
        "writing": (lambda: writing(args.folder, args.rows), "ratio", 0.6, True),
        "fetching": (lambda: fetching(args.folder, args.rows), "ratio", 3.0, False),
        "opening": (lambda: opening(args.folder / "small", args.small_rows), "open_and_fetch_ms", 50.0, False),
        "memory": (lambda: held(args.folder / "store", args.rows), "growth", 1.05, False),
    }
    for name, (measure, figure, goal, at_least) in steps.items():
        found = measure()
        met = found[figure] >= goal if at_least else found[figure] <= goal
        values = ", ".join(f"{key} {value:.3g}" for key, value in found.items())
        print(f"{name:9} {values}  goal: {figure} {'>=' if at_least else '<='} {goal}: {'met' if met else 'NOT MET'}")


if __name__ == "__main__":
    main()
