"""The form in which a text is read: what printing and typing left behind is gone, ordinary text is as it was."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clara_model import Clara, ClaraModel
from clara_model.modeling.plain_text import clean_text

PLAIN = "The final office of the flight chief was fixed at the Café Müller on 12 August 1962."
FORMS = {
    "ligatures": PLAIN.replace("ffi", "\ufb03").replace("fi", "\ufb01").replace("fl", "\ufb02"),
    "spaces that do not break": PLAIN.replace(" ", "\u00a0"),
    "accents apart": unicodedata.normalize("NFD", PLAIN),
    "hyphens at line ends": PLAIN.replace("office", "of-\nfice").replace("August", "Au-\n  gust"),
    "soft hyphens": PLAIN.replace("office", "of\u00adfice").replace("August", "Au\u00ad\ngust"),
    "full width": "".join(
        chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else "\u3000" if one == " " else one for one in PLAIN
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_forms_of_one_text_are_read_as_that_text(form: str, loaded: ClaraModel):
    assert form != PLAIN
    assert clean_text(form) == PLAIN
    tokens = loaded.tokens
    assert tokens.document_ids(form) == tokens.document_ids(PLAIN)
    prompt = next(iter(loaded.config.prompts))
    assert tokens.text_prompt_ids(prompt, form, form) == tokens.text_prompt_ids(prompt, PLAIN, PLAIN)


def test_forms_of_one_text_score_alike(loaded: ClaraModel):
    with Clara(loaded) as clara:
        scores = {round(one.score, 6) for one in clara.rank(PLAIN, [PLAIN, *FORMS.values()])}
        assert len(scores) == 1
        assert clara.rank(FORMS["full width"], [PLAIN])[0].score == pytest.approx(scores.pop(), abs=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "It cost 3\u00bd crowns per m\u00b2 \u2013 \u201cno more\u201d \u2026 \u2122 \u2460 \u2116 7.",
        "A well-known list:\n- one -\n- two 3-\n4 Smith-\nJones",
        "\u5f7c\u306f\uff0c\u300c\u306f\u3044\u300d\u3068\u8a00\u3063\u305f\u3002\u3000\uff08\u7d42\u308f\u308a\uff09\uff01",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 \u0915\u094d\u200d\u0937 \U0001f468\u200d\U0001f467",
    ],
    ids=["fractions and quotes", "hyphens", "Chinese and Japanese marks", "joiners"],
)
def test_ordinary_text_is_as_it_was(text: str):
    assert clean_text(text) == text


def test_half_width_and_shaped_letters():
    assert clean_text("\uff8a\uff9f\uff9d\uff61") == "\u30d1\u30f3\u3002"
    assert clean_text("\ufee3\ufeae\ufea3\ufe92\ufe8e") == "\u0645\u0631\u062d\u0628\u0627"
    assert clean_text("Ｂ２Ｂ，ｐｌｃ！") == "B2B,plc!"


def test_a_pile_of_marks_is_left_as_it_is_and_takes_no_time():
    pile = "a" + "\u0301\u0316" * 100_000
    assert clean_text(pile) == pile
    for text in ("\uff0c" * 10**6, "a-\n" * 10**6, "\ufb01" * 10**6, "\u00ad" * 10**6):
        clean_text(text)


@given(st.text(alphabet=st.characters(codec="ascii")))
def test_ascii_without_a_hyphen_at_a_line_end_is_as_it_was(text: str):
    text = text.replace("-\n", "- \n")
    assert clean_text(text) == text


@given(st.text())
def test_what_is_read_is_a_string_that_can_be_written(text: str):
    clean_text(text).encode("utf-8")


def test_places_point_into_the_text_as_it_was(loaded: ClaraModel):
    text = unicodedata.normalize(
        "NFD", " ".join(f"{number} caf\u00e9s f\ufb01led of-\n\ufb01cially." for number in range(60))
    )
    tokens, limit = loaded.tokens, loaded.config.doc_max_length
    places = tokens.windows(text)
    assert len(places) > 2
    assert "".join(text[start:end] for start, end in places).replace(" ", "") == text.replace(" ", "")
    assert all(tokens.count(text[start:end]) <= limit for start, end in places)
    assert all(text[end - 1] == "." for _, end in places)
    reach = tokens.reach(text)
    assert tokens.count(text[:reach]) <= limit + 1 < tokens.count(text[: reach + 4])
