"""Long texts are read whole: in windows with blocks and keys of their own, ranked by the best, cited by number."""

import logging

import pytest
import torch
from counting import counted
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from clara_model.inference import pipeline
from clara_model.inference.calls import Splitter
from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Candidates, Encoded
from clara_model.inference.results import Ranked
from clara_model.latents import Latents
from clara_model.modeling.embedding import embed
from clara_model.store.cache import LatentCache
from clara_model.windows import Window, content_key

SHORT = {"max_new_tokens": 4}
LONG = "\n\n".join(TEXTS)
ONE = TEXTS[0]


@pytest.fixture(scope="module")
def clara(loaded: ClaraModel) -> Clara:
    return Clara(loaded)


def windows_of(clara: Clara, text: str) -> list[str]:
    return [text[start:end] for start, end in clara.model.tokens.windows(text)]


# -- windows ----------------------------------------------------------------------------------------------------------


def test_a_text_that_fits_is_its_own_window(loaded: ClaraModel):
    for text in ("", " \n", f"  {ONE}\n"):
        assert loaded.tokens.windows(text) == [(0, len(text))]


def test_windows_end_with_sentences_and_leave_nothing_out(clara: Clara):
    windows = windows_of(clara, LONG)
    assert len(windows) > 4 and all(clara.count_tokens(text) <= clara.doc_max_length for text in windows)
    assert "".join(LONG.split()) == "".join("".join(windows).split())
    assert sum(text.endswith(".") for text in windows) >= 5


def test_a_long_blank_text_is_one_window(loaded: ClaraModel):
    assert loaded.tokens.windows("\n" * 500) == [(0, 500)]


@pytest.mark.parametrize("marker", ["", "<SEP> "])
def test_how_far_a_pass_reaches(loaded: ClaraModel, marker: str):
    text = marker + LONG
    reach = loaded.tokens.reach(text)
    kept = loaded.tokens.lengths([loaded.tokens.document_ids(text)])[0]
    assert 0 < reach < len(text) and loaded.tokens.count(text[:reach]) == kept
    assert loaded.tokens.reach(ONE) == len(ONE)


# -- compress and rank ------------------------------------------------------------------------------------------------


def test_each_window_has_its_own_block_and_key(loaded: ClaraModel):
    store = LatentCache()
    clara = Clara(loaded, store=store)
    latents, texts = clara.compress([ONE, LONG]), windows_of(clara, LONG)
    assert len(latents) == 1 + len(texts) and latents.documents == 2
    assert latents.windows[0] == Window(document=0)
    assert [LONG[w.start : w.end] for w in latents.windows[1:]] == texts
    assert [w.number for w in latents.windows[1:]] == list(range(len(texts)))
    for block, text in zip(latents.vectors, [ONE, *texts], strict=True):
        assert torch.equal(block, loaded.compress([text]).vectors[0])
        (kept,) = store.get(clara.fingerprint, [content_key(text)])
        assert torch.equal(kept.vector, block)


def test_a_document_scores_as_its_best_window(clara: Clara):
    question = QUESTIONS[1]
    alone = clara.rank(question, windows_of(clara, LONG))
    ranking = clara.rank(question, [TEXTS[3], LONG, "Short."])
    (found,) = [one for one in ranking if one.index == 1]
    assert found.score == pytest.approx(alone[0].score, abs=1e-6) and found.window.number == alone[0].index
    assert len(ranking) == 3 and all(one.window is None for one in ranking if one.index != 1)
    assert [one.score for one in ranking] == sorted((one.score for one in ranking), reverse=True)


def test_latents_of_long_documents_stand_for_their_texts(clara: Clara, tmp_path):
    texts = [TEXTS[3], LONG, ONE]
    clara.compress(texts).save(tmp_path / "kept.safetensors")
    latents = Latents.load(tmp_path / "kept.safetensors")
    assert latents.windows == clara.compress(texts).windows
    ranking = clara.rank(QUESTIONS[0], latents)
    assert [(r.index, r.window) for r in ranking] == [(r.index, r.window) for r in clara.rank(QUESTIONS[0], texts)]
    one, other = clara.answer(QUESTIONS[0], latents, **SHORT), clara.answer(QUESTIONS[0], texts, **SHORT)
    assert (one.text, one.selected, one.windows, one.usage) == (other.text, other.selected, other.windows, other.usage)


def test_stacked_latents_count_their_documents_on(clara: Clara):
    parts = [clara.compress([ONE, TEXTS[3]]), clara.compress([LONG, ONE]), clara.compress([TEXTS[4]])]
    stacked = Latents.stack(parts)
    assert stacked.documents == 5
    assert [w.document for w in stacked.windows] == [0, 1, *[2] * len(windows_of(clara, LONG)), 3, 4]
    assert stacked[[0, 2]].windows == (stacked.windows[0], stacked.windows[2])
    assert Latents.stack(parts[:1]).windows is None


def test_an_embedding_for_each_document(clara: Clara):
    latents = clara.compress([ONE, LONG])
    found = torch.tensor(embed(latents, 64))
    windows = torch.tensor(embed(Latents(latents.vectors[1:], latents.lengths[1:], latents.fingerprint), 64))
    assert found.shape == (2, 64)
    torch.testing.assert_close(found[1], torch.nn.functional.normalize(windows.mean(dim=0), dim=0))
    torch.testing.assert_close(found[0], torch.tensor(embed(clara.compress([ONE]), 64))[0])


# -- answer -----------------------------------------------------------------------------------------------------------


def test_the_best_windows_of_all_documents_are_read_best_first(clara: Clara):
    answer = clara.answer(QUESTIONS[2], [ONE, LONG], 3, **SHORT)
    texts = [ONE, *windows_of(clara, LONG)]
    best = clara.rank(QUESTIONS[2], texts)[:3]
    read = [[ONE, LONG][w.document][w.start : w.end] for w in answer.windows]
    assert read == [texts[one.index] for one in best]
    assert answer.selected == [w.document for w in answer.windows]
    assert answer.usage.text_tokens == sum(clara.count_tokens(text) for text in read)
    assert answer.usage.read_tokens == sum(clara.count_tokens(text) for text in texts)
    assert answer.text == clara.answer(QUESTIONS[2], texts, 3, **SHORT).text
    assert {one.index for one in answer.ranking} == {0, 1}


def test_citations_name_document_and_window(clara: Clara):
    answer = clara.answer(QUESTIONS[0], [TEXTS[3], LONG], 99, **SHORT)
    numbers = range(1, len(windows_of(clara, LONG)) + 1)
    assert sorted(answer.citations) == sorted(["document 1", *(f"document 2, window {n}" for n in numbers)])


def test_without_ranking_the_documents_keep_their_order(clara: Clara):
    texts = [LONG, ONE, " ".join(TEXTS[2:])]
    answer = clara.answer(QUESTIONS[0], texts, 4, rerank=False, **SHORT)
    assert answer.ranking == [] and answer.selected == sorted(answer.selected)
    assert set(answer.selected) == {0, 1, 2} and len(answer.windows) == 4
    best = clara.rank(QUESTIONS[0], windows_of(clara, LONG))[0].index
    assert answer.windows[0].number == best


@pytest.mark.parametrize(
    ("k", "ranking", "read"),
    [
        (1, [2, 0, 4, 1, 3], [2]),
        (2, [2, 0, 4, 1, 3], [2, 4]),
        (3, [2, 0, 4, 1, 3], [2, 0, 4]),
        (9, [2, 0, 4, 1, 3], [2, 0, 1, 4, 3]),
        (3, [], [0, 1, 3]),
        (4, [], [0, 1, 3, 4]),
    ],
)
def test_which_windows_are_read_in_the_order_given(k: int, ranking: list[int], read: list[int]):
    windows = [Window(document=d, number=n, start=n, end=n + 1) for d, n in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]]
    row = Candidates(Encoded(torch.zeros(5, 1, 1), (1,) * 5), range(5), windows)
    assert pipeline.in_given_order(row, [Ranked(index, 0.5) for index in ranking], k) == read


def test_a_long_text_is_told_again_window_by_window(clara: Clara):
    apart = clara.paraphrase(windows_of(clara, LONG), **SHORT)
    assert clara.paraphrase([ONE, LONG], **SHORT) == [clara.paraphrase([ONE], **SHORT)[0], "\n".join(apart)]


# -- the other ways ---------------------------------------------------------------------------------------------------


def test_truncating_reads_the_start_and_says_so_once(loaded: ClaraModel, caplog: pytest.LogCaptureFixture):
    clara = Clara(loaded, long_documents="truncate")
    with caplog.at_level(logging.WARNING):
        answer = clara.answer(QUESTIONS[0], [ONE, LONG, LONG], **SHORT)
    reach = loaded.tokens.reach(LONG)
    assert [record.getMessage() for record in caplog.records] == [
        f"1 of 2 documents longer than 48 tokens: {reach} of their {len(LONG)} characters were read and the rest was "
        "cut; long_documents='split' reads them whole"
    ]
    assert len(answer.ranking) == 3 and answer.citations == [f"document {i + 1}" for i in answer.selected]
    assert torch.equal(clara.compress([LONG]).vectors, loaded.compress([LONG]).vectors)


def test_the_published_calls_truncate_and_say_so(loaded: ClaraModel, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        _, selected = loaded.generate_from_questions(QUESTIONS[:1], [[ONE, LONG]], 4)
    assert sorted(selected[0].tolist()) == [0, 1]
    assert "1 of 2 documents longer than 48 tokens" in caplog.text


def test_an_error_names_the_document_and_the_fix(loaded: ClaraModel):
    with pytest.raises(
        ClaraError, match=r"document 2 of 2 \('Ada Fenwick .*'\) has more than the 48 tokens .* split it"
    ):
        Clara(loaded, long_documents="error").rank(QUESTIONS[0], [ONE, LONG])
    assert len(Clara(loaded, long_documents="error").rank(QUESTIONS[0], [ONE])) == 1


@pytest.mark.parametrize("value", ["cut", True, 5])
def test_another_way_is_refused(loaded: ClaraModel, value: object):
    with pytest.raises(ValueError, match=f"long_documents must be split, truncate or error, got {value!r}"):
        Clara(loaded, long_documents=value)


def test_nothing_is_said_where_nothing_is_cut(clara: Clara, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        clara.answer(QUESTIONS[0], [ONE, LONG], **SHORT)
    assert not caplog.records


def test_a_question_that_is_ranked_by_its_start_says_so(clara: Clara, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        clara.rank(f"{LONG} Who was it?", [ONE])
    assert "1 of 1 questions longer than 48 tokens" in caplog.text and "long_documents" not in caplog.text


def test_where_a_text_is_split_is_remembered(loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    splitter = Splitter(loaded.tokens, "split")
    first = splitter.split([LONG])
    monkeypatch.setattr(loaded.tokens, "windows", lambda text: pytest.fail("split again"))
    assert splitter.split([LONG]) == first


@pytest.mark.parametrize("cold", ["compress", "text"])
def test_a_text_is_hashed_and_split_once_a_question(loaded: ClaraModel, monkeypatch: pytest.MonkeyPatch, cold: str):
    windows, one = windows_of(Clara(loaded), LONG), "A text of its own."
    hashed, split = counted(monkeypatch)
    with Clara(loaded, cold=cold) as clara:
        clara.answer(QUESTIONS[0], [one, LONG, one], **SHORT)
        assert split == {one: 1, LONG: 1}
        assert hashed == {one: 1, LONG: 1, **dict.fromkeys(windows, 1)}
        clara.flush()
        split.clear(), hashed.clear()
        clara.answer(QUESTIONS[1], [one, LONG, one], **SHORT)
        clara.rank(QUESTIONS[1], [one, LONG])
        assert hashed == {one: 2, LONG: 2} and not split
