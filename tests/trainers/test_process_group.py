"""The processes of a machine: one asks the hub, one unpacks a file, all leave together."""

import gzip
import json
import time
from pathlib import Path

import torch.distributed as dist
import torch.multiprocessing as mp
from huggingface_hub import constants

from trainers import processes


def ask(rank: int, folder: Path) -> None:
    """One process: when it was inside, and whether it could have asked the hub."""
    import os

    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "TMPDIR": str(folder)}
    constants.HF_HUB_OFFLINE = False
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    with processes.one_asks_the_hub():
        times = [time.monotonic()]
        time.sleep(0.3)
        times.append(time.monotonic())
        silent = constants.HF_HUB_OFFLINE
    packed = processes.unpacked(folder / "rows.jsonl.gz")
    text = packed.read_text()
    result = {"times": times, "silent": silent, "after": constants.HF_HUB_OFFLINE, "text": text, "file": str(packed)}
    if rank == 0:
        time.sleep(0.3)  # as it writes the card of a run
    leaving = time.monotonic()
    processes.stop()
    result |= {"leaving": leaving, "left": time.monotonic(), "still": dist.is_initialized()}
    (folder / f"{rank}.json").write_text(json.dumps(result))


def test_the_first_process_asks_the_others_read_its_cache_and_all_leave_together(tmp_path: Path):
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(b"rows"))
    mp.spawn(ask, args=(tmp_path,), nprocs=2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["times"][1] <= second["times"][0]
    assert (first["silent"], second["silent"], second["after"]) == (False, True, False)
    assert first["text"] == second["text"] == "rows" and first["file"] == second["file"]
    assert first["leaving"] <= second["left"] and not (first["still"] or second["still"])
