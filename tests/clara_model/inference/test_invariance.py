"""A text's latent is the same to the bit, and a seed's text the same, whatever else is in the batch."""

import pytest
import small_model
import torch
from small_model import QUESTIONS, TEXTS

from clara_model import ClaraModel
from clara_model.inference.clara import Clara
from clara_model.inference.pipeline import Limits

WORDS = [*TEXTS, "Short.", "", "The clock of Osmere " * 5]


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request, tiny_clara_folder) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=request.param, device="cpu")


def test_a_latent_does_not_depend_on_its_neighbours(model: ClaraModel):
    together = Clara(model).compress(WORDS).vectors
    assert torch.equal(Clara(model, batch_size=2).compress(WORDS).vectors, together)
    alone = [Clara(model, long_documents="truncate").compress([text]).vectors[0] for text in WORDS]
    offered = Clara(model, long_documents="truncate").compress(WORDS).vectors
    assert all(torch.equal(one, other) for one, other in zip(alone, offered, strict=True))
    assert torch.equal(model.compress(WORDS).vectors, offered)


def test_rankings_do_not_depend_on_what_was_kept_before(model: ClaraModel):
    fresh = Clara(model)
    kept = Clara(model)
    for text in reversed(WORDS):
        kept.compress([text])
    assert kept.rank(QUESTIONS[0], WORDS) == fresh.rank(QUESTIONS[0], WORDS)
    apart = [fresh.encode_queries([question]).vectors[0] for question in QUESTIONS]
    assert torch.equal(fresh.encode_queries(QUESTIONS).vectors, torch.stack(apart))


def test_a_padded_batch_would_depend_on_it(model: ClaraModel):
    """What the passes of one text each are for: padding moves the last bits."""
    padded = small_model.documents(model.tokens, WORDS)
    with torch.no_grad():
        together, _ = model.encode("compressor", padded.ids, padded.mask)
    assert not torch.equal(together, model.compress(WORDS).vectors)


def test_passes_of_one_text_can_be_asked_for_on_any_device(model: ClaraModel, monkeypatch: pytest.MonkeyPatch):
    rows = [model.tokens.document_ids(text) for text in WORDS]
    alone = model.encode_rows("compressor", rows, one_text_per_pass=True)
    assert torch.equal(alone, torch.cat([model.encode_rows("compressor", [row]) for row in rows]))
    assert Limits(one_text_per_pass=True).one_text_per_pass and not Limits().one_text_per_pass


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(model: ClaraModel):
    clara, how = Clara(model), {"max_new_tokens": 8, "temperature": 1.5, "seed": 11}
    together = clara.answers([*QUESTIONS, QUESTIONS[0]], TEXTS, **how)
    assert together[0].text == together[-1].text
    assert [a.text for a in together[:3]] == [clara.answer(q, TEXTS, **how).text for q in QUESTIONS]
    assert len({clara.answer(QUESTIONS[0], TEXTS, **{**how, "seed": seed}).text for seed in range(4)}) > 1
