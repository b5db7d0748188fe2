"""Stage 3's latents are made once, and are those that the compressor makes in every pass."""

from pathlib import Path

import pytest
import torch
import training_rows

from clara_model.inference.published import ClaraModel
from clara_model.modeling.objectives import Objective, TrainingModel
from clara_model.store.cache import LatentCache, LayeredStore
from clara_model.store.opening import open_store
from trainers.data.collator import Collator
from trainers.data.rows import parse_row
from trainers.data.sampling import TrainingItem
from trainers.training.latent_reuse import FrozenLatents
from trainers.training.run import train


def batch(model: ClaraModel, rows: list[dict]) -> dict[str, torch.Tensor]:
    items = [TrainingItem(parse_row(row), n, 0) for n, row in enumerate(rows)]
    made = Collator(model.tokens, "end_to_end")(items)
    made.pop("rows")
    return made


@pytest.fixture(scope="module")
def model(tiny_clara_folder: Path) -> ClaraModel:
    return ClaraModel.from_pretrained(tiny_clara_folder, dtype=torch.float32, device="cpu")


@pytest.mark.parametrize("cache_bytes", [2**20, 0])
def test_the_losses_and_gradients_are_the_same(model: ClaraModel, cache_bytes: int):
    """Also when nothing can be kept, and when a batch has some documents that were met and some that were not."""
    training = TrainingModel(model, Objective(stage="end_to_end"))
    frozen = FrozenLatents(model, LatentCache(cache_bytes))
    rows = training_rows.question_rows(4)
    gradients = []
    for filled in (True, False):
        for part in (rows[:2], rows[1:], rows):
            values = batch(model, part)
            out = training(**(frozen.fill(values) if filled else values))
        training.zero_grad()
        out["loss"].backward()
        named = model.trainable_parameters(model.trainable_roles)
        gradients.append({name: parameter.grad.clone() for name, parameter in named.items()})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, rtol=1e-4, atol=1e-6)
    assert (frozen.asked, frozen.made) == (45, 20 if cache_bytes else 45)


def test_a_store_keeps_latents_for_the_next_run(model: ClaraModel, tmp_path: Path):
    """To the bit, also where nothing fits into memory."""
    rows, filled = training_rows.question_rows(4), []
    for _ in range(2):
        store = LayeredStore(LatentCache(0), open_store(tmp_path / "store", encoding="exact", keep_text=False))
        frozen = FrozenLatents(model, store)
        filled.append(frozen.fill(batch(model, rows))["document_latents"])
        made = frozen.made
        frozen.close()
    assert made == 0 and torch.equal(*filled)


def test_the_setting_makes_the_store(pretrained: Path, questions_file: Path, tmp_path: Path):
    values = {"pretrain_checkpoint": pretrained, "dataset": questions_file, "max_steps": 2}
    for name in ("one", "two"):
        run = training_rows.config("end_to_end", tmp_path / name, **values, latent_store=str(tmp_path / "store"))
        train(run)
    with open_store(tmp_path / "store") as store:
        assert sum(1 for _ in store.iterate()) == 2 * 8 * 5
