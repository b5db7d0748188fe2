"""A run's folder is looked at before the first step: written to, and seen by all processes."""

from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from clara_model.errors import ClaraError
from trainers.processes import check_shared, check_writable


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(ClaraError, match=r"file/run cannot be written to .*give another --save_path"):
        check_writable(tmp_path / "file" / "run")
    check_writable(tmp_path / "new" / "run")
    assert list((tmp_path / "new" / "run").iterdir()) == []


def look(rank: int, folder: Path, own: bool) -> None:
    """One process; its folder is its own, or that of all."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{own}", rank=rank, world_size=2)
    mine = folder / str(rank) if own else folder
    mine.mkdir(exist_ok=True)
    try:
        check_shared(mine)
        result = "shared"
    except ClaraError as error:
        result = str(error)
    (folder / f"result-{own}-{rank}").write_text(result)
    dist.destroy_process_group()


@pytest.mark.parametrize("own", [False, True])
def test_two_processes_must_see_one_folder(tmp_path: Path, own: bool):
    mp.spawn(look, args=(tmp_path, own), nprocs=2)
    results = [(tmp_path / f"result-{own}-{rank}").read_text() for rank in (0, 1)]
    expected = "processes 1 do not see what the first one writes; give a --save_path" if own else "shared"
    assert all(expected in result for result in results)
    assert not list(tmp_path.rglob(".shared-*"))
