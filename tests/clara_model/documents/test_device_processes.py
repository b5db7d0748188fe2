"""Several processes and one store: the same as one process makes, killed or not."""

import json
import os
import signal
from pathlib import Path

import pytest
from small_model import TEXTS

from clara_model.cli.main import main
from clara_model.documents import corpus, device_processes
from clara_model.documents.corpus import compress_corpus
from clara_model.errors import ClaraError
from clara_model.store import open_store

OPTIONS = {"dtype": "float32"}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{number}. {text}"}) for number in range(8) for text in TEXTS))
    return file


def contents(folder: Path) -> tuple[dict[str, object], set[str]]:
    with open_store(folder) as store:
        assert store.verify() == []
        return {one.id: one.windows for one in store.documents()}, {row.key for row in store.iterate()}


def test_two_processes_make_what_one_makes(files: Path, tmp_path: Path, tiny_clara_folder: Path, capsys, monkeypatch):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 300)
    words = [str(files), "--model", str(tiny_clara_folder), "--dtype", "float32", "--json"]
    reports = []
    for name, more in (("one", ["--device", "cpu"]), ("two", ["--devices", "cpu,cpu"])):
        assert main(["compress", *words, "--store", str(tmp_path / name), *more]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    counted = ("documents", "unchanged", "windows", "compressed", "tokens", "nbytes")
    assert [reports[1][name] for name in counted] == [reports[0][name] for name in counted]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert main(["compress", *words, "--store", str(tmp_path / "two"), "--devices", "2"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["unchanged"], again["compressed"]) == (again["documents"], 0)


@pytest.mark.slow
def test_a_killed_process_is_said_and_the_next_run_goes_on(
    files: Path, tmp_path: Path, tiny_clara_folder: Path, monkeypatch
):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 300)
    with open_store(tmp_path / "store") as store:
        with pytest.raises(ClaraError, match="run the same command again"):
            with device_processes.processes(str(tiny_clara_folder), store.url, OPTIONS, ["cpu"]) as compress:

                def killing(batches):
                    for number, done in enumerate(compress(batches)):
                        if number == 1:
                            os.kill(_child(), signal.SIGKILL)
                        yield done

                compress_corpus(killing, store, [str(files)])
        kept = len(store.digests())
        assert 0 < kept < 8 * len(TEXTS)
        with device_processes.processes(str(tiny_clara_folder), store.url, OPTIONS, ["cpu"]) as compress:
            done = compress_corpus(compress, store, [str(files)])
        assert done.unchanged >= kept
    assert len(contents(tmp_path / "store")[0]) == 8 * len(TEXTS)


def _child() -> int:
    import multiprocessing

    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    return child.pid


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "0"], "--devices takes a number of at least 1, or names such as cpu,cpu; got 0"),
        (["--devices", "cpu,,cpu"], "--devices takes names"),
        (["--devices", "2", "--device", "cpu"], "--device and --devices were both given"),
    ],
)
def test_bad_devices_are_said_in_a_sentence(words, said, files: Path, tmp_path: Path, tiny_clara_folder: Path, capsys):
    assert (
        main(["compress", str(files), "--store", str(tmp_path / "s"), "--model", str(tiny_clara_folder), *words]) != 0
    )
    assert said in capsys.readouterr().err
