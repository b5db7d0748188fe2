"""`clara compress`, `search`, `ask --store`, `store`, and the cache of `ask --docs`."""

import json
from pathlib import Path

import pytest
from small_model import QUESTIONS, TEXTS

from clara_model.cli.main import main
from clara_model.inference.clara import Clara
from clara_model.store import open_store


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number, text in enumerate(TEXTS):
        (folder / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture
def model(tiny_clara_folder: Path) -> list[str]:
    return ["--model", str(tiny_clara_folder), "--device", "cpu", "--dtype", "float32"]


def record(capsys: pytest.CaptureFixture[str], *words: str):
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_compress_then_search_and_ask(docs: Path, tmp_path: Path, model: list[str], capsys, monkeypatch):
    store = str(tmp_path / "store")
    done = record(capsys, "compress", str(docs), "--store", store, *model)
    assert (done["documents"], done["compressed"], done["store"]["blocks"]) == (5, 5, 5)
    assert main(["compress", str(docs), "--store", store, *model]) == 0
    assert "All 5 documents are in the store as they are: nothing was compressed." in capsys.readouterr().out

    monkeypatch.setattr(Clara, "compress", None)
    found = record(capsys, "search", QUESTIONS[0], "--store", store, "--top-k", "3", *model)["results"]
    assert len(found) == 3
    assert found[0]["score"] >= found[1]["score"] >= found[2]["score"]
    file = found[1]["metadata"]["file"]
    only = record(capsys, "search", QUESTIONS[0], "--store", store, "--where", f"file={file}", *model)["results"]
    assert [one["document"] for one in only] == [file]
    answer = record(capsys, "ask", QUESTIONS[0], "--store", store, "--top-k", "3", *model)
    assert [one["document"] for one in answer["passages"]] == [one["document"] for one in found]
    assert main(["ask", QUESTIONS[0], "--store", store, "--stream", *model]) == 0
    assert "nothing compressed: query" in capsys.readouterr().out


def test_a_store_is_filled_whatever_is_in_memory(docs: Path, tmp_path: Path, model: list[str], capsys):
    """As where another test, or another user of the process, holds the same model and its cache of latents."""
    with Clara.load(model[1], device="cpu", dtype="float32") as clara:
        clara.compress(TEXTS)
        done = record(capsys, "compress", str(docs), "--store", str(tmp_path / "store"), *model)
    assert done["store"]["blocks"] == len(TEXTS)


def test_metadata_of_rows_are_searched_by(tmp_path: Path, model: list[str], capsys):
    rows = [{"text": text, "year": 1900 + number} for number, text in enumerate(TEXTS)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    store = str(tmp_path / "store")
    record(capsys, "compress", str(tmp_path / "rows.jsonl"), "--store", store, "--metadata", "year", *model)
    found = record(capsys, "search", QUESTIONS[0], "--store", store, "--where", "year=1902", *model)["results"]
    assert [(one["text"], one["metadata"]["year"]) for one in found] == [(TEXTS[2], 1902)]


def test_where_takes_numbers_and_truth_values(tmp_path: Path, model: list[str], capsys):
    row = {
        "text": TEXTS[0],
        "ok": True,
        "price": 12.5,
        "id": 2**64 - 1,
        "file": "letters/report.pdf",
        "tags": ["x", "y"],
    }
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({"text": TEXTS[1], "ok": False, "price": 1})
    )
    names = [word for name in row if name != "text" for word in ("--metadata", name)]
    store = str(tmp_path / "store")
    record(capsys, "compress", str(tmp_path / "rows.jsonl"), "--store", store, *names, *model)
    for where in ("ok=true", "price=12.5", f"id={2**64 - 1}", "file=letters/report.pdf"):
        found = record(capsys, "search", QUESTIONS[0], "--store", store, "--where", where, *model)["results"]
        assert [one["text"] for one in found] == [TEXTS[0]], where


def test_verify_exits_with_3_until_what_it_drops_is_made_anew(docs: Path, tmp_path: Path, model: list[str], capsys):
    store = tmp_path / "store"
    record(capsys, "compress", str(docs), "--store", str(store), *model)
    data = bytearray((store / "data-1.bin").read_bytes())
    data[7] ^= 1
    (store / "data-1.bin").write_bytes(data)
    assert main(["store", "verify", str(store)]) == 3
    assert main(["store", "verify", str(store), "--mend", "--json"]) == 3
    assert "the latents of its window 0 are not there" in capsys.readouterr().out
    assert record(capsys, "compress", str(docs), "--store", str(store), *model)["compressed"] == 1
    assert main(["store", "verify", str(store)]) == 0
    assert main(["store", "compact", str(store), "--mend"]) == 2
    assert "--mend drops the damage that verify finds" in capsys.readouterr().err


def test_a_store_is_copied_into_another_element_type(docs: Path, tmp_path: Path, model: list[str], capsys):
    one, two = str(tmp_path / "one"), str(tmp_path / "two.lance")
    record(capsys, "compress", str(docs), "--store", one, *model)
    (done,) = record(capsys, "store", "copy", one, "--to", two, "--encoding", "int8")
    assert done["copied"] == len(TEXTS)
    assert main(["store", "copy", one, "--to", f"file://{one}"]) == 2
    assert "cannot be copied into itself" in capsys.readouterr().err
    (stats,) = record(capsys, "store", "stats", f"file://{two}")
    assert (stats["blocks"], stats["documents"], stats["encoding"]) == (len(TEXTS), len(TEXTS), "int8")
    found = [record(capsys, "search", QUESTIONS[0], "--store", place, *model)["results"] for place in (one, two)]
    assert [each["text"] for each in found[0]] == [each["text"] for each in found[1]]
    (freed,) = record(capsys, "store", "clear", f"file://{two}")
    assert freed["nbytes_freed"] > 0
    assert record(capsys, "store", "stats", two)[0]["blocks"] == 0


def test_the_second_question_to_a_folder_compresses_nothing_and_says_so(docs, model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    first = record(capsys, "ask", QUESTIONS[0], "--docs", str(docs), *model)
    assert first["stored"] == 0
    assert main(["ask", QUESTIONS[1], "--docs", str(docs), *model]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 passages were kept from an earlier question: nothing was compressed" in out
    (docs / "0.txt").write_text("Something new.")
    assert main(["ask", QUESTIONS[1], "--docs", str(docs), *model]) == 0
    assert "4 of 5 passages were kept from an earlier question: 1 were compressed" in capsys.readouterr().out
    stats = record(capsys, "store", "stats")
    assert [one["blocks"] for one in stats] == [6]
    assert record(capsys, "store", "verify")[0]["damaged"] == 0
    assert record(capsys, "store", "compact")[0]["nbytes"] > 0
    assert record(capsys, "store", "clear")[0]["nbytes_freed"] > 0
    assert [(one["blocks"], one["fingerprint"]) for one in record(capsys, "store", "stats")] == [(0, None)]


def test_cold_text_answers_first_and_compresses_then(docs, model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    asked = ["ask", QUESTIONS[0], "--docs", str(docs), "--cold", "text", "--max-new-tokens", "4", *model]
    assert main(asked) == 0
    assert "answered from text: 5 passages are compressed now for the next question" in capsys.readouterr().out
    second = record(capsys, *asked)
    assert (second["answered_from"], second["stored"]) == ("latents", 5)
    for words in (["--no-store"], ["--store", str(tmp_path)]):
        docs_or_none = [] if words[0] == "--store" else ["--docs", str(docs)]
        assert main(["ask", "Who?", *docs_or_none, "--cold", "text", *words, *model]) == 2
        assert "--cold text needs --docs and the user's cache folder" in capsys.readouterr().err


def test_no_store_keeps_nothing(docs, model, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record(capsys, "ask", QUESTIONS[0], "--docs", str(docs), "--no-store", *model)
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_used_is_said_and_does_not_end_the_question(docs, model, capsys, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert main(["ask", QUESTIONS[0], "--docs", str(docs), "--json", *model]) == 0
    assert "latents are not kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["search", "who", "--store", "/nowhere/at/all"], "does not exist; make it with: clara compress"),
        (["store", "stats", "/nowhere/at/all"], "does not exist"),
        (["store", "copy", "a"], "store copy takes two stores"),
        (["store", "stats", "a", "--to", "b"], "store stats takes neither"),
        (["ask", "who"], "needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two"),
        (
            ["ask", "who", "--docs", "a", "--store", "b"],
            "needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two",
        ),
        (["ask", "who", "--docs", "a", "--where", "b=c"], "--where needs --store"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], message: str, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_where_without_a_value(docs, model, capsys, tmp_path):
    main(["compress", str(docs), "--store", str(tmp_path / "s"), "--quiet", *model])
    assert main(["search", "who", "--store", str(tmp_path / "s"), "--where", "file", *model]) == 2
    assert "--where takes NAME=VALUE, got 'file'" in capsys.readouterr().err


def test_clear_refuses_a_folder_that_is_no_store(tmp_path, capsys):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    assert main(["store", "clear", str(tmp_path / "precious")]) == 2
    assert "is a folder without a store" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "precious").iterdir()] == ["file"]
    open_store(tmp_path / "precious").close()
    assert main(["store", "clear", str(tmp_path / "precious")]) == 0
    assert (tmp_path / "precious" / "file").read_text() == "x"
