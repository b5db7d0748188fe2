"""Training with a residual: its centre, another rate, and the text reader that the curriculum starts from."""

import json
from pathlib import Path

import pytest
import torch
import training_rows

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from trainers.run import train
from trainers.stages import starting_model


def settings(folder: Path, rows: Path, **values: object) -> dict[str, object]:
    return {"dataset": rows, "save_path": folder, "residual": "blocks", "memory_positions": "spread", **values}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pairs = [row for row in training_rows.stage1_rows(16) if row["data_type"] == "qa"]
    return training_rows.write(tmp_path_factory.mktemp("rows") / "rows.jsonl", pairs)


@pytest.fixture(scope="module")
def reader(base_folder: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader")
    values = settings(folder, rows, pretrain=base_folder, compress_rate=1, read_text=True, qa_loss=False, max_epochs=3)
    return train(training_rows.config("pretrain", folder, **{k: v for k, v in values.items() if k != "save_path"}))


def test_the_text_reader_trains_the_generator_alone_and_learns(reader: Path):
    model = ClaraModel.from_pretrained(reader, dtype=torch.float32, device="cpu")
    assert all(not p.any() for name, p in model.roles.parameters("compressor").items() if "lora_B" in name)
    assert any(p.any() for name, p in model.roles.parameters("generator").items() if "lora_B" in name)
    log = [json.loads(line) for line in (reader / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert losses[-1] < losses[0]


def test_the_centre_is_the_mean_embedding_of_the_training_text(reader: Path, rows: Path):
    model = ClaraModel.from_pretrained(reader, dtype=torch.float32, device="cpu")
    texts = [json.loads(line)["docs"][0] for line in rows.read_text().splitlines()]
    ids = [i for text in texts for i in model.tokens.plain_ids(text)]
    mean = model.base.get_input_embeddings()(torch.tensor(ids)).mean(dim=0)
    torch.testing.assert_close(model.residuals.of["compressor"].center.data, mean, atol=1e-5, rtol=1e-4)


def test_another_rate_keeps_adapters_and_what_fits_of_the_residual(reader: Path, rows: Path, tmp_path: Path):
    before = ClaraModel.from_pretrained(reader, dtype=torch.float32, device="cpu")
    config = training_rows.config(
        "pretrain", tmp_path, dataset=rows, pretrain_checkpoint=reader, compress_rate=4, qa_loss=False, max_epochs=3
    )
    model = starting_model(config, "cpu")
    assert (model.config.compression_rate, model.config.memory_tokens) == (4, 8)
    for name, weight in before.roles.parameters("generator").items():
        assert torch.equal(model.roles.parameters("generator")[name], weight)
    assert torch.equal(model.residuals.of["compressor"].center, before.residuals.of["compressor"].center)
    assert model.residuals.of["compressor"].projection.shape == (3, 32, 32)
    again = starting_model(
        training_rows.config("pretrain", tmp_path, dataset=rows, pretrain_checkpoint=train(config), compress_rate=2),
        "cpu",
    )
    trained = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert not torch.equal(trained.residuals.of["compressor"].projection[0], torch.eye(32))
    assert torch.equal(again.residuals.of["compressor"].projection, trained.residuals.of["compressor"].projection[:1])


def test_read_text_needs_single_answers(base_folder: Path, tmp_path: Path):
    with pytest.raises(ClaraError, match="read_text learns each answer after its own question"):
        training_rows.config("pretrain", tmp_path, dataset="x", pretrain=base_folder, read_text=True)
