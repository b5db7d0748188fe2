"""`clara export`, `clara chat`, and `clara ask` of a running server."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_server import TOKEN, hub_server
from served import running

from clara_model import Clara
from clara_model.cli import main as cli
from clara_model.cli import serving

QUESTIONS = "Where was Ranvun Mepos born?\n\nWhere was Ponwis Kilos born?\n"


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "mepos.txt").write_text("Ranvun Mepos was born in Jiwas.")
    (folder / "kilos.txt").write_text("Ponwis Kilos was born in Tenga.")
    return folder


@pytest.fixture(scope="module")
def tiny():
    with Clara.load("clara-tiny", dtype="float32", device="cpu") as clara:
        yield clara


MODEL = ("--model", "clara-tiny", "--dtype", "float32", "--device", "cpu")


def test_export_writes_the_generator_and_says_how_to_serve_it(tmp_path, capsys, tiny_clara_folder):
    words = ["export", str(tiny_clara_folder), str(tmp_path / "out"), "--dtype", "float32", "--device", "cpu"]
    assert cli.main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["generator"] == json.loads((tmp_path / "out/config.json").read_text())["clara_generator"]
    assert told["command"] == (
        f"python -m vllm.entrypoints.openai.api_server --model {tmp_path}/out --served-model-name {told['generator']} "
        "--enable-prompt-embeds --host 127.0.0.1 --port 8000 --dtype float32"
    )
    (tmp_path / "out" / "config.json").unlink()
    assert cli.main(words) == 2
    assert "out holds something else" in capsys.readouterr().err


def pushing(folder, url, token=TOKEN):
    """`clara export .. --push`, in a process of its own: where the hub is, its library reads once."""
    words = [str(folder), "--dtype", "float32", "--device", "cpu", "--push", "me/mine"]
    hub = {"HF_ENDPOINT": url, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = [
        sys.executable,
        "-m",
        "clara_model.cli.main",
        "export",
        *words[:1],
        str(folder.parent / "out"),
        *words[1:],
    ]
    return subprocess.run(command, env={**os.environ, **hub}, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_what_is_pushed_lies_on_the_hub(tmp_path, tiny_clara_folder):
    shutil.copytree(tiny_clara_folder, tmp_path / "model")
    with hub_server() as (hub, url):
        for _ in range(2):  # into a repository that is new, and one that is there
            done = pushing(tmp_path / "model", url)
            assert done.returncode == 0, done.stderr
            assert f"Pushed: {url}/me/mine/commit/" in done.stdout
            assert "--model me/mine --served-model-name clara-" in done.stdout
        here = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert hub.files == {"me/mine": here} and hub.visibility == {"me/mine": "private"}
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(here) and len(hub.large) == 1
        refused = pushing(tmp_path / "model", url, token="hf_wrong")
    nobody = pushing(tmp_path / "model", url)
    for failed in (refused, nobody):
        assert failed.returncode == 2 and failed.stderr.count("\n") == 1, failed.stderr
        assert "could not be sent to 'me/mine'" in failed.stderr and "hf auth login" in failed.stderr


@pytest.mark.parametrize("kept", ["--docs", "--store"])
def test_chat_answers_one_question_after_the_other(notes, tmp_path, capsys, monkeypatch, kept):
    where = notes
    if kept == "--store":
        where = tmp_path / "store"
        assert cli.main(["compress", str(notes), "--store", str(where), *MODEL, "--quiet"]) == 0
        capsys.readouterr()
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTIONS))
    assert cli.main(["chat", kept, str(where), "--top-k", "1", "--quiet", *MODEL]) == 0
    answered = capsys.readouterr().out.splitlines()
    assert answered[::2] == ["Jiwas", "Tenga"]
    assert all(name in line for name, line in zip(["mepos.txt", "kilos.txt"], answered[1::2], strict=True))


def test_chat_and_a_running_server_copy(notes, tiny, capsys, monkeypatch):
    texts = [path.read_text() for path in notes.iterdir()]
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTIONS))
    assert cli.main(["chat", "--docs", str(notes), "--top-k", "1", "--quiet", "--copy", *MODEL]) == 0
    copied = capsys.readouterr().out.splitlines()[::2]
    assert len(copied) == 2 and all(one and any(one in text for text in texts) for one in copied)
    with running(tiny, None, api_key="k") as url:
        monkeypatch.setenv("CLARA_URL", url)
        monkeypatch.setenv("CLARA_API_KEY", "k")
        sent = []
        replies = serving._replies
        monkeypatch.setattr(serving, "_replies", lambda url, body: sent.append(body) or replies(url, body))
        assert cli.main(["ask", QUESTIONS.splitlines()[0], "--docs", str(notes), "--copy", "--json", *MODEL]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sent[0]["copy"] is True and any(told["answer"] in text for text in texts)
    assert (told["quotes"][0]["start"], told["quotes"][0]["end"]) == (0, len(told["answer"]))


def test_chat_goes_on_after_a_question_that_cannot_be_answered(notes, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("x " * 40_000 + f"\n{QUESTIONS}"))
    assert cli.main(["chat", "--docs", str(notes), "--top-k", "1", "--quiet", *MODEL]) == 0
    shown = capsys.readouterr()
    assert "Jiwas" in shown.out and "Tenga" in shown.out
    assert cli.main(["chat", *MODEL]) == 2
    assert "chat needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two" in capsys.readouterr().err


def test_ask_lets_a_running_server_answer(notes, tiny, tmp_path, capsys, monkeypatch):
    def no_model(*_, **__):
        raise AssertionError("a model was loaded")

    with Clara.load("clara-tiny", dtype="float32", device="cpu", store=tmp_path / "store") as stored:
        stored.compress(["Ranvun Mepos was born in Jiwas."])
        with running(tiny, stored, api_key="k") as url:
            monkeypatch.setenv("CLARA_URL", url)
            monkeypatch.setenv("CLARA_API_KEY", "k")
            monkeypatch.setattr("clara_model.inference.clara.Clara.load", no_model)
            asked = ["ask", "Where was Ranvun Mepos born?", "--top-k", "1"]
            for form in ([], ["--stream"], ["--quiet"]):
                assert cli.main([*asked, "--docs", str(notes), *form]) == 0
                shown = capsys.readouterr().out
                assert shown.startswith("Jiwas\n") and "mepos.txt, passage 1" in shown
            assert cli.main([*asked, "--json"]) == 0
            record = json.loads(capsys.readouterr().out)
            assert record["answer"] == "Jiwas" and record["sources"][0]["text"] == "Ranvun Mepos was born in Jiwas."
            assert cli.main([*asked, "--store", "elsewhere"]) == 2
            assert "has a store of its own" in capsys.readouterr().err
            monkeypatch.setenv("CLARA_API_KEY", "other")
            assert cli.main(asked) == 2
            assert "wants its key" in capsys.readouterr().err
    assert cli.main(asked) == 2
    assert "no server answers at" in capsys.readouterr().err
