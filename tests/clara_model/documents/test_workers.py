"""Several processes, or Ray actors, and one store: the same as one process makes, killed or not."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_model import TEXTS

from clara_model.cli.main import main
from clara_model.documents import corpus, workers
from clara_model.documents.corpus import compress_corpus
from clara_model.errors import ClaraError
from clara_model.store import open_store

OPTIONS, COPIES = {"dtype": "float32"}, 4


@pytest.fixture
def files(tmp_path: Path) -> Path:
    file = tmp_path / "documents.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"{number}. {text}"}) for number in range(COPIES) for text in TEXTS))
    return file


def contents(place: Path) -> tuple[dict[str, object], list[str]]:
    with open_store(place) as store:
        assert store.verify() == []
        return {one.id: one.windows for one in store.documents()}, sorted(row.key for row in store.iterate())


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
            with workers.processes(str(tiny_clara_folder), store.url, OPTIONS, ["cpu"]) as compress:

                def killing(batches):
                    for number, done in enumerate(compress(batches)):
                        if number == 1:
                            os.kill(_child(), signal.SIGKILL)
                        yield done

                compress_corpus(killing, store, [str(files)])
        kept = len(store.digests())
        assert 0 < kept < COPIES * len(TEXTS)
        with workers.processes(str(tiny_clara_folder), store.url, OPTIONS, ["cpu"]) as compress:
            done = compress_corpus(compress, store, [str(files)])
        assert done.unchanged >= kept
    assert len(contents(tmp_path / "store")[0]) == COPIES * len(TEXTS)


def _child() -> int:
    import multiprocessing

    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    return child.pid


@pytest.fixture(scope="module")
def two_places() -> Iterator[None]:
    """A cluster on this machine with room for two actors; or the one that is named."""
    ray = pytest.importorskip("ray")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # no token in the user's folder
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 2, "num_gpus": 0, "include_dashboard": False}
    try:
        ray.init(log_to_driver=False, **here)
    except Exception as error:  # Ray gives its control service 30 seconds, which a busy machine may not have
        ray.shutdown()
        pytest.skip(f"Ray does not start on this machine: {error}")
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["latents", "latents.lance"])
def test_an_actor_is_killed_and_nothing_is_lost_or_doubled(
    name: str, two_places: None, files: Path, tmp_path: Path, tiny_clara_folder: Path, capsys, monkeypatch
):
    monkeypatch.setattr(corpus, "CHARACTERS_AT_ONCE", 100)
    words = ["compress", str(files), "--model", str(tiny_clara_folder), "--dtype", "float32", "--json"]
    assert main([*words, "--store", str(tmp_path / "alone"), "--device", "cpu"]) == 0
    capsys.readouterr()
    done, killed = [], []
    with (
        open_store(tmp_path / name) as store,
        workers.actors(str(tiny_clara_folder), store.url, OPTIONS, 2) as compress,
    ):

        def killing(batches):
            for number, one in enumerate(compress(batches)):
                if number == 3:
                    killed.append(_an_actor())
                    os.kill(killed[0], signal.SIGKILL)
                done.append(one)
                yield one

        report = compress_corpus(killing, store, [str(files)])
    assert killed and not Path(f"/proc/{killed[0]}/stat").exists()
    assert (report.documents, report.windows, report.bad) == (COPIES * len(TEXTS), sum(one.windows for one in done), [])
    assert contents(tmp_path / name) == contents(tmp_path / "alone")
    assert main([*words, "--store", str(tmp_path / name), "--engine", "ray", "--devices", "2"]) == 0
    out = capsys.readouterr().out  # Ray says at any time what it has lost, before the command too
    again = json.loads(out[out.index("{") :])
    assert (again["unchanged"], again["compressed"]) == (COPIES * len(TEXTS), 0)


def _an_actor() -> int:
    from ray._private.state import actors  # the public list wants the dashboard

    return next(one["Pid"] for one in actors().values() if one["State"] == "ALIVE")


@pytest.mark.slow
def test_what_the_cluster_cannot_do_is_one_sentence(
    two_places: None, files: Path, tmp_path: Path, tiny_clara_folder: Path
):
    import ray

    store = str(tmp_path / "latents")
    with pytest.raises(ClaraError, match="--devices 3 is more than the 2 CPUs of the cluster"):
        with workers.actors(str(tiny_clara_folder), store, OPTIONS, 3):
            pass
    nodes = ray.nodes() * 2
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ClaraError, match="has 2 machines, which cannot share"):
        patch.setattr(ray, "nodes", lambda: nodes)
        with workers.actors(str(tiny_clara_folder), store, OPTIONS, 2):
            pass
    with open_store(store) as opened, pytest.raises(ClaraError, match=r"an actor failed: .*nowhere"):
        with workers.actors(str(tmp_path / "nowhere"), store, OPTIONS, 1) as compress:
            compress_corpus(compress, opened, [str(files)])


RAY = ["--engine", "ray"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--devices", "0"], "--devices takes a number of at least 1, or names such as cpu,cpu; got 0"),
        (["--devices", "cpu,,cpu"], "--devices takes names"),
        (["--devices", "2", "--device", "cpu"], "--device and --devices were both given"),
        ([*RAY, "--devices", "cuda:0"], "with --engine ray, --devices takes how many actors, 1 or more, got 'cuda:0'"),
        ([*RAY, "--devices", "0"], "got '0'"),
        ([*RAY, "--device", "cpu"], "--device means nothing with --engine ray"),
    ],
)
def test_bad_words_are_said_in_a_sentence(words, said, files: Path, tmp_path: Path, tiny_clara_folder: Path, capsys):
    given = ["compress", str(files), "--store", str(tmp_path / "s"), "--model", str(tiny_clara_folder)]
    assert main([*given, *words]) == 2
    assert said in capsys.readouterr().err


def test_without_the_package(files: Path, tmp_path: Path, tiny_clara_folder: Path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    given = ["compress", str(files), "--store", str(tmp_path / "s"), "--model", str(tiny_clara_folder)]
    assert main([*given, "--engine", "ray"]) == 2
    assert "needs the package ray; install it with: pip install 'clara-integrations[ray]'" in capsys.readouterr().err
