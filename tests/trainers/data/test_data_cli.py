"""`clara-data`: what each command prints, writes and returns, as a newcomer meets it."""

import json

import pytest
from chat_server import chat_server
from official_files import NQ, hotpotqa, write_json, write_jsonl, write_tsv

from trainers.data import cli as data_cli
from trainers.data import token_counts
from trainers.data.synthesis import cli as synthesis_cli

GOOD = {"question": "Who?", "docs": ["[red]a[/red] b", "c"], "answer": "Ann", "pos_index": [1]}
TEXT = "Larkhaven is a port. Osmere is a mill town."


@pytest.fixture(autouse=True)
def words(monkeypatch, tmp_path):
    """No bundled model: lengths in words."""
    monkeypatch.setattr(token_counts, "_BUNDLED", tmp_path / "nothing")


@pytest.fixture
def run(capsys):
    """Run a command: exit code, standard output, standard error."""

    def main(*words):
        capsys.readouterr()
        try:
            code = data_cli.main([str(word) for word in words])
        except SystemExit as error:
            code = error.code
        return (code, *capsys.readouterr())

    return main


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text(TEXT)
    return folder


# -- check ------------------------------------------------------------------------------------------------------


def test_check_of_good_data(run, tmp_path):
    file = write_jsonl(tmp_path / "good.jsonl", [GOOD])
    code, out, _ = run("check", file)
    assert code == 0
    assert out.splitlines()[-1] == "No bad line."
    assert "length in words" in out and "cut at 256" in out


def test_check_lists_every_bad_line_and_returns_1(run, tmp_path):
    bad = [{**GOOD, "pos_index": [9]}] * 12
    file = write_jsonl(tmp_path / "bad.jsonl", [GOOD, GOOD, *bad])
    code, out, _ = run("check", file, write_jsonl(tmp_path / "good.jsonl", [GOOD]), "--doc-max-length", 1)
    assert code == 1
    assert "together" in out
    assert out.count('"pos_index" holds 9, but there are 2 documents') == 12
    assert f"{file}:14: " in out
    assert "Repeated rows (2)" in out
    assert "3 (50.0%), 33.3% lost" in out
    assert out.splitlines()[-1] == "12 bad lines: training refuses these files."


def test_check_shows_the_first_remarks_and_all_when_asked(run, tmp_path):
    file = write_jsonl(tmp_path / "x.jsonl", [GOOD] * 9)
    assert "and 3 more there; --all shows them" in run("check", file)[1]
    assert "more there" not in run("check", file, "--all")[1]


def test_check_as_json(run, tmp_path):
    file = write_jsonl(tmp_path / "x.jsonl", [GOOD, 3])
    code, out, _ = run("check", file, "--json")
    values = json.loads(out)
    assert (code, values["lengths_in"], values["doc_max_length"]) == (1, "words", 256)
    (report,) = values["files"]
    assert report["rows"] == {"question": 1}
    assert report["bad"] == [{"place": f"{file}:2", "what": "a row must be a JSON object, got int"}]
    assert report["tokens"]["document"]["texts"] == 2


def test_check_counts_with_the_model_s_tokenizer_and_document_length(run, tmp_path, tiny_clara_folder):
    file = write_jsonl(tmp_path / "x.jsonl", [GOOD])
    values = json.loads(run("check", file, "--json", "--model", tiny_clara_folder)[1])
    assert (values["doc_max_length"], values["lengths_in"]) == (48, f"tokens of {tiny_clara_folder}")


def test_check_holds_rows_against_a_stage(run, tmp_path, tiny_clara_folder):
    two = {"question": ["a", "b"], "answers": ["c", "d"], "docs": ["e"]}
    rows = [GOOD, {**GOOD, "question": "who " * 2_000}, two]
    file = write_jsonl(tmp_path / "x.jsonl", rows)
    words = ("--stage", "end_to_end", "--max_len", 300, "--model", tiny_clara_folder)
    code, out, _ = run("check", file, *words)
    assert code == 1
    assert f"{file}:3: 2 questions, but stage 3 wants one in each row" in out
    assert "1 question is longer than max_len leaves room for" in out
    report = json.loads(run("check", file, *words, "--json")[1])["files"][0]
    assert (report["shortened_questions"], len(report["bad"])) == (1, 1)
    assert "pass --stage too" in run("check", file, "--max_len", 300)[2]


# -- synthesize -------------------------------------------------------------------------------------------------


def test_synthesize_writes_rows_and_says_what_they_cost(run, texts, tmp_path):
    out_file = tmp_path / "out.jsonl"
    with chat_server() as server:
        arguments = ("synthesize", texts, "--out", out_file, "--base-url", server.url, "--model", "m")
        prices = ("--price-in", 2, "--price-out", 5)
        code, out, _ = run(*arguments, *prices, "--json")
        facts = json.loads(out)
        asked = len(server.bodies)
        assert (code, facts["rows"]) == (0, {"qa": 2, "paraphrase": 1})
        assert facts["this run"] == {
            "requests": asked,
            "prompt tokens": 100 * asked,
            "completion tokens": 10 * asked,
            "cost": round(asked * (100 * 2 + 10 * 5) / 1e6, 4),
        }
        code, out, _ = run(*arguments, *prices)
        assert len(server.bodies) == asked
        assert out.splitlines()[-1] == f"3 rows in {out_file}"
        assert run("check", out_file)[0] == 0


def test_synthesize_as_a_dry_run_shows_the_prompts_and_asks_nothing(run, texts):
    code, out, _ = run("synthesize", texts, "--dry-run", "--price-in", 1000)
    assert code == 0
    for kind in ("simple questions", "supplementary questions", "complex questions", "check of a pair", "paraphrase"):
        assert f"=== {kind} ===" in out
    assert out.count(TEXT) == 6
    assert "1 passages would take about 18 requests" in out
    assert out.splitlines()[-1].endswith("Nothing was asked.")


def test_synthesize_needs_an_endpoint_and_says_so(run, texts, tmp_path):
    code, _, err = run("synthesize", texts, "--out", tmp_path / "o.jsonl")
    assert (code, err) == (2, "clara-data: --base-url, --model must be given; --dry-run shows the prompts without\n")


def test_synthesize_writes_what_is_finished_when_the_endpoint_fails(run, texts, tmp_path):
    (texts / "b.txt").write_text("Tolvik is an archive. Ada is a clerk.")
    out_file = tmp_path / "out.jsonl.gz"

    def interfere(number, body):
        return (503, {}, {"error": {"message": "tired"}}) if "Tolvik is" in str(body) else None

    with chat_server() as server:
        server.interfere = interfere
        arguments = ("synthesize", texts, "--out", out_file, "--base-url", server.url, "--model", "m")
        arguments += ("--retries", 0, "--concurrency", 1)
        code, out, err = run(*arguments)
        assert code == 0
        assert "1 passages failed; run again to try them once more" in err
        assert "answered with 503: tired" in out and "Tolvik is an archive." in out
        server.interfere = lambda number, body: None
        code, out, _ = run(*arguments)
    assert (code, out.splitlines()[-1]) == (0, f"6 rows in {out_file}")


def test_synthesize_returns_1_when_nothing_came_out(run, texts, tmp_path):
    with chat_server() as server:
        server.rule.judge_pair = lambda document, shown: "no"
        code, out, err = run(
            "synthesize", texts, "--out", tmp_path / "o.jsonl", "--base-url", server.url, "--model", "m"
        )
    assert (code, "no row came out of 1 passages" in err) == (1, True)
    assert "passage: no question passed the check" in out
    assert not (tmp_path / "o.jsonl").exists()


def test_synthesize_does_not_write_over_a_file_that_it_did_not_make(run, texts, tmp_path):
    out_file = write_jsonl(tmp_path / "o.jsonl", [GOOD])
    code, _, err = run("synthesize", texts, "--out", out_file, "--base-url", "http://127.0.0.1:1/v1", "--model", "m")
    assert (code, "exists already; delete it or name another --out" in err) == (2, True)
    assert json.loads(out_file.read_text()) == GOOD


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--extra-body", "[1]"), "must be a JSON object, got '[1]'"),
        (("--kinds", "hard"), "invalid choice"),
        (("--limit", "0"), "must be a whole number of at least 1, got '0'"),
        (("--rounds", "-1"), "rounds must be at least 0, got -1"),
        (("--api-key-env", "CLARA_TEST_NO_SUCH_KEY"), "CLARA_TEST_NO_SUCH_KEY of --api-key-env is not set"),
    ],
)
def test_synthesize_refuses_wrong_words_in_one_line(run, texts, tmp_path, words, message):
    arguments = ("--out", tmp_path / "o.jsonl", "--base-url", "http://127.0.0.1:1/v1", "--model", "m")
    code, _, err = run("synthesize", texts, *arguments, *words)
    assert (code, message in err, err.count("\n")) == (2, True, 1)


def test_only_openai_itself_gets_a_key_that_was_not_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("OTHER", "other")
    assert synthesis_cli._api_key("https://api.openai.com/v1", None) == "secret"
    assert synthesis_cli._api_key("https://api.openai.com.example/v1", None) == "none"
    assert synthesis_cli._api_key("http://localhost:8000/v1", None) == "none"
    assert synthesis_cli._api_key("http://localhost:8000/v1", "OTHER") == "other"


def test_passages_of_words_are_kept_short(run, texts):
    (texts / "b.txt").write_text(" ".join(f"Sentence number {i} is here." for i in range(200)))
    out = run("synthesize", texts, "--dry-run")[1]
    assert "7 passages would take" in out
    assert "2 passages would take" in run("synthesize", texts, "--dry-run", "--limit", 2)[1]


# -- convert ----------------------------------------------------------------------------------------------------


def test_convert_writes_rows_that_check_likes(run, tmp_path):
    file = write_json(tmp_path / "hotpot.json", [hotpotqa(i) for i in range(5)])
    code, out, _ = run("convert", file, "--format", "hotpotqa", "--out", tmp_path / "t.jsonl", "--candidates", 8)
    assert (code, out.splitlines()[-1]) == (0, f"5 rows in {tmp_path / 't.jsonl'}")
    values = json.loads(run("check", tmp_path / "t.jsonl", "--json")[1])["files"][0]
    assert (values["rows"], values["rows_with_positives"]) == ({"question": 5}, 5)
    assert values["documents_per_row"] == {"8": 5}


def test_convert_names_ids_that_come_twice(run, tmp_path):
    twice = [{**hotpotqa(i), "_id": "same" if i < 3 else f"q{i}"} for i in range(5)]
    file = write_json(tmp_path / "hotpot.json", twice)
    code, out, err = run("convert", file, "--format", "hotpotqa", "--out", tmp_path / "t.jsonl", "--json")
    assert (code, json.loads(out)["rows written"]) == (0, 5)
    assert "ids that come more than once: same; every question becomes a row" in err


def test_convert_of_nq_as_json(run, tmp_path):
    questions, corpus = write_jsonl(tmp_path / "nq.jsonl", NQ), write_tsv(tmp_path / "p.tsv")
    arguments = ("--format", "nq", "--corpus", corpus, "--out", tmp_path / "t.jsonl.gz", "--split", "eval", "--json")
    code, out, _ = run("convert", questions, *arguments)
    facts = json.loads(out)
    assert (code, facts["questions read"], facts["rows written"], facts["passages in the pool"]) == (0, 3, 2, 6)
    assert list(facts["left out"].values()) == [1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format", "nq"), "NQ-open names no passages; give a --corpus"),
        (("--format", "musique"), "x.json:1: must be a JSON object, got list"),
        (("--format", "hotpotqa", "--negatives", "embedding", "--candidates", "9"), "need an --embedding-model"),
        (("--format", "squad"), "invalid choice: 'squad'"),
    ],
)
def test_convert_says_in_one_line_what_is_wrong_and_leaves_no_file(run, tmp_path, words, message):
    file = write_json(tmp_path / "x.json", [hotpotqa(0)])
    code, _, err = run("convert", file, "--out", tmp_path / "t.jsonl", *words)
    assert (code, message in err, err.count("\n")) == (2, True, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]


@pytest.mark.parametrize(
    ("out", "message"),
    [("t.txt", "must end in .jsonl or .jsonl.gz"), ("no/t.jsonl", "folder of the output does not exist")],
)
def test_an_output_that_cannot_be_written_is_said_before_the_work(run, tmp_path, out, message):
    file = write_json(tmp_path / "x.json", [hotpotqa(0)])
    code, _, err = run("convert", file, "--format", "2wiki", "--out", tmp_path / out)
    assert (code, message in err) == (2, True)


def test_convert_returns_1_when_nothing_came_out(run, tmp_path):
    file = write_json(tmp_path / "x.json", [{key: value for key, value in hotpotqa(0).items() if key != "answer"}])
    code, _, err = run("convert", file, "--format", "hotpotqa", "--out", tmp_path / "t.jsonl")
    assert (code, err) == (1, "clara-data: no row came out of 1 questions\n")
    assert not (tmp_path / "t.jsonl").exists()


def test_help_names_the_commands(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(command in out for command in ("check", "synthesize", "convert"))
    for command in ("check", "synthesize", "convert"):
        assert run(command, "--help")[0] == 0
