"""The journal: what was written is there again, whatever happened; nothing else is taken for a journal."""

import json

import pytest

from clara_model.errors import ClaraError
from trainers.data.synthesis.journal import Journal, Outcome, Reply

ROW = {"data_type": "qa", "question": ["Wö?"], "answers": ["\u2603"], "docs": ["d"]}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.journal"


def test_replies_and_outcomes_are_there_again(path):
    reply = Reply(text="a\n\u2028b", cut_off=True, prompt_tokens=7, completion_tokens=3)
    outcome = Outcome(rows=[ROW], dropped={"complex": "why"}, counts={"rounds": 2})
    with Journal(path, "s") as journal:
        journal.add_reply("p", "k", reply)
        journal.add_reply("q", "k", Reply(text="other"))
        journal.finish("q", outcome)
    with Journal(path, "s") as journal:
        assert journal.reply("p", "k") == reply
        assert journal.reply("p", "x") is journal.reply("x", "k") is None
        assert (journal.is_finished("q"), journal.is_finished("p")) == (True, False)
        assert journal.outcome("q") == outcome
        assert (journal.spent.requests, journal.spent.prompt_tokens, journal.spent.completion_tokens) == (2, 7, 3)


def test_a_passage_finished_under_other_settings_is_open_but_its_replies_stay(path):
    with Journal(path, "old") as journal:
        journal.add_reply("p", "k", Reply(text="t"))
        journal.finish("p", Outcome())
    with Journal(path, "new") as journal:
        assert not journal.is_finished("p")
        assert journal.reply("p", "k").text == "t"


@pytest.mark.parametrize("kept", range(1, 60, 7))
def test_a_torn_last_line_is_cut_off_and_writing_goes_on(path, kept):
    with Journal(path, "s") as journal:
        journal.add_reply("p", "1", Reply(text="one"))
        whole = path.read_bytes()
        journal.add_reply("p", "2", Reply(text="two"))
    path.write_bytes(path.read_bytes()[: len(whole) + kept])
    with Journal(path, "s") as journal:
        assert journal.reply("p", "1") and journal.reply("p", "2") is None
        journal.add_reply("p", "3", Reply(text="three"))
    with Journal(path, "s") as journal:
        assert [journal.reply("p", key) is not None for key in "123"] == [True, False, True]


def test_a_torn_header_is_made_again(path):
    path.write_bytes(b'{"journ')
    with Journal(path, "s") as journal:
        journal.add_reply("p", "1", Reply(text="one"))
    with Journal(path, "s") as journal:
        assert journal.reply("p", "1")


@pytest.mark.parametrize("content", [b"my diary", b"my\ndiary\n", b'{"question": "q"}\n', b"\xff\xfe\n", b"[]\n"])
def test_another_file_is_refused_and_left_as_it_is(path, content):
    path.write_bytes(content)
    with pytest.raises(ClaraError, match=r"out\.journal is not a journal of this command"):
        Journal(path, "s")
    assert path.read_bytes() == content


def test_a_damaged_line_in_the_middle_is_named(path):
    with Journal(path, "s") as journal:
        journal.add_reply("p", "1", Reply(text="one"))
    with path.open("ab") as file:
        file.write(b"{\n" + json.dumps({"finished": "p"}).encode() + b"\n")
    with pytest.raises(ClaraError, match=r"out\.journal:3 is damaged; delete the line"):
        Journal(path, "s")


def test_one_run_at_a_time(path):
    with Journal(path, "s"), pytest.raises(ClaraError, match="in use by another run"):
        Journal(path, "s")
