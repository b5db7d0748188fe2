"""Terminal text and the picture: what is shown is data, fits its width, and says the numbers it was given."""

from dataclasses import replace

import matplotlib.image
import pytest

from clara_model.console import tables
from clara_model.inference.quotes import quotes
from clara_model.inference.results import Answer, Ranked, Timings, Usage
from clara_model.windows import Window


def answer(text="Bern", scores=(0.9, 0.5, -0.2), selected=(0, 1), compress=0.2, **more):
    ranking = [Ranked(index, score) for index, score in enumerate(scores)]
    return Answer(text, ranking, list(selected), Usage(), Timings(compress, 0.01, 0.001, 0.1), "stop", **more)


def test_control_characters_are_made_visible_and_line_ends_stay():
    assert tables.visible("a\x1b[31mb\tc\nd é 語") == "a\ufffd[31mb\ufffdc\nd é 語"


@pytest.mark.parametrize(
    ("value", "largest", "drawn"),
    [(1.0, 1.0, "█" * 16), (0.5, 1.0, "█" * 8), (0.0, 1.0, ""), (-0.5, 1.0, ""), (1.0, 0.0, ""), (1 / 32, 1.0, "▌")],
)
def test_a_bar_is_as_long_as_its_share(value, largest, drawn):
    assert tables.bar(value, largest) == drawn


def test_durations_are_told_in_the_unit_that_reads_best():
    assert [tables.seconds(value) for value in (0.0004, 0.25, 1.0, 75.04)] == ["0 ms", "250 ms", "1.0 s", "75.0 s"]


def test_a_ranking_line_holds_rank_score_place_and_as_much_text_as_fits():
    rows = [
        (0.9, "a.txt, passage 2", "Anna [b]lives[/b]\nin " + "Bern " * 99, True),
        (None, "b.md, passage 1", "x", False),
    ]
    first, second = tables.ranking(rows, 100).plain.split("\n")
    assert first.startswith("  1   0.900  " + "█" * 16 + "  a.txt, passage 2  Anna [b]lives[/b] in Bern")
    assert len(first) <= 100
    assert first.endswith("…")
    assert second.split() == ["2", "-", "b.md,", "passage", "1", "x"]
    assert "█" not in tables.ranking(rows, 60).plain


def test_usage_says_what_was_saved_and_does_not_divide_by_no_slots():
    usage = Usage(text_tokens=1200, slots=80, prompt_tokens=130, completion_tokens=7)
    line = tables.usage_line(usage, 5, 20)
    assert line == "read 5 of 20 passages: 1,200 tokens of text in 80 slots (15.0x fewer), 7 tokens written"
    line = tables.usage_line(replace(usage, expanded_tokens=400), 5, 20)
    assert "passages: 400 tokens as text, 800 tokens of text in 80 slots (10.0x fewer), 7 tokens" in line
    line = tables.usage_line(replace(usage, text_tokens=17, slots=43), 1, 2)
    assert line == "read 1 of 2 passages: 17 tokens of text in 43 slots (2.5x more), 7 tokens written"
    for nothing in (Usage(slots=0), Usage(slots=9), Usage(text_tokens=8, expanded_tokens=8, slots=0)):
        assert "x fewer" not in tables.usage_line(nothing, 0, 0) and "x more" not in tables.usage_line(nothing, 0, 0)


def test_where_nothing_was_compressed_the_first_phase_is_a_look_up():
    timings = Timings(compress=0.022, query=0.3, rank=0.001, generate=1.25)
    rest = "query 300 ms, rank 1 ms, generate 1.2 s"
    assert tables.timings_line(timings) == f"compress 22 ms, {rest}"
    assert tables.timings_line(timings, compressed=False) == f"look up 22 ms, {rest}"


def test_what_stands_nowhere_and_what_is_too_unlikely_are_told():
    text = "The mill was rebuilt by Mei Lin for 1,450 euros in Osmere, as the old book says."
    said = answer(
        text="450 euros, to Mei Lin", confidence=0.25, unsupported=["450"], quotes=quotes("Mei Lin", [(Window(), text)])
    )
    shown = tables.answer_text(said)
    assert shown.plain == said.text and [shown.plain[one.start : one.end] for one in shown.spans] == ["450"]
    assert tables.answer_text(said, 0.25).plain == said.text
    assert tables.answer_text(said, 0.26).plain == "The documents do not say."
    assert tables.answer_text(replace(said, confidence=None), 0.9).plain == said.text
    assert tables.support(said, [text], ["notes.txt"]).plain == (
        "“The mill was rebuilt by Mei Lin for 1,450 euros in Osmere, as the old b” (notes.txt); "
        "not in what was read: 450; confidence 0.25"
    )
    assert tables.support(answer(text="x"), [text], ["a"]).plain == ""


def test_the_picture_is_drawn_for_any_text_and_grows_with_the_questions(tmp_path):
    odd = ["What costs $5 or $6?", "x" * 500, "\x1b[31m?", "_^{\\frac"]
    sizes = []
    for count in (1, 4):
        path = tmp_path / f"{count}.png"
        tables.save_picture(path, "A title of $1", [(text, answer(text=text), count == 1) for text in odd[:count]])
        sizes.append(matplotlib.image.imread(path).shape)
    assert sizes[0][1] == sizes[1][1]
    assert sizes[0][0] < sizes[1][0]


def test_the_picture_survives_a_checkpoint_that_cannot_rank_and_no_time_at_all(tmp_path):
    nothing = replace(answer(scores=(), selected=(0,)), timings=Timings())
    tables.save_picture(tmp_path / "a.png", "t", [("Q?", nothing, False)])
    assert (tmp_path / "a.png").stat().st_size > 1000


@pytest.mark.parametrize("other", [{"selected": (0, 1, 2)}, {"right": False}])
def test_the_picture_shows_what_was_read_and_what_is_right_in_other_colours(tmp_path, other):
    pixels = []
    for what in ({"selected": (0,), "right": True}, {"selected": (0,), "right": True, **other}):
        path = tmp_path / "a.png"
        tables.save_picture(path, "t", [("Q?", answer(selected=what["selected"]), what["right"])])
        pixels.append(matplotlib.image.imread(path))
    assert pixels[0].shape == pixels[1].shape
    assert (pixels[0] != pixels[1]).any()
