"""Training with a residual: its centre, another rate, and the text reader that the curriculum starts from."""

import json
import math
import shutil
from pathlib import Path

import pytest
import small_model
import torch
import training_rows
from safetensors.torch import load_file

from clara_model import ClaraModel
from clara_model.errors import ClaraError
from trainers.data.rows import Row
from trainers.training.run import train
from trainers.training.stages import starting_model, token_weights


def settings(folder: Path, rows: Path, **values: object) -> dict[str, object]:
    return {"dataset": rows, "save_path": folder, "residual": "anchors", **values}


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
    for name, part in before.residuals.of["compressor"].named_parameters():
        assert torch.equal(part, dict(model.residuals.of["compressor"].named_parameters())[name]), name
    again = starting_model(
        training_rows.config("pretrain", tmp_path, dataset=rows, pretrain_checkpoint=train(config), compress_rate=2),
        "cpu",
    )
    trained = ClaraModel.from_pretrained(tmp_path, dtype=torch.float32, device="cpu")
    assert not torch.equal(trained.residuals.of["compressor"].projection[0], 0.5 * torch.eye(32))
    assert torch.equal(again.residuals.of["compressor"].projection, trained.residuals.of["compressor"].projection)
    assert again.memory.of("compressor").shape[0] == 16


def test_read_text_needs_single_answers(base_folder: Path, tmp_path: Path):
    with pytest.raises(ClaraError, match="read_text learns each answer after its own question"):
        training_rows.config("pretrain", tmp_path, dataset="x", pretrain=base_folder, read_text=True)


def test_tokens_of_answers_and_questions_weigh_more(base_folder: Path):
    model = small_model.build_model(base_folder)
    ids = {word: model.tokens.plain_ids(f" {word}") for word in ("tide", "clock", "was")}
    row = Row(documents=("the tide was was clock",), questions=("who saw the tide",), answers=("Clock",))
    weights = token_weights(model.tokens, [row], model.tokens.added_ids[0])
    answer, asked, plain = (weights[ids[word]].mean() for word in ("clock", "tide", "was"))
    assert answer > asked > plain
    alone = token_weights(model.tokens, [Row(documents=row.documents, questions=(), answers=(), kind="paraphrase")],
                          model.tokens.added_ids[0])  # fmt: skip
    seen = [i for i in model.tokens.plain_ids(row.documents[0]) if i == ids["was"][-1]]
    total = len(model.tokens.plain_ids(row.documents[0])) + 0.5 * len(alone)
    assert alone[ids["was"][-1]].item() == pytest.approx(-math.log((len(seen) + 0.5) / total) / 9.0, rel=1e-5)


def test_anchors_start_from_weights_of_the_rows_and_go_through_both_stages(
    base_folder: Path, rows: Path, tmp_path: Path
):
    values = {"dataset": rows, "residual": "anchors", "qa_loss": False}
    reader = training_rows.config(
        "pretrain", tmp_path / "reader", pretrain=base_folder, compress_rate=1, read_text=True, **values
    )
    first = train(reader)
    model = ClaraModel.from_pretrained(first, dtype=torch.float32, device="cpu")
    compressor = model.residuals.of["compressor"]
    texts = [Row(documents=(json.loads(line)["docs"][0],), questions=tuple(json.loads(line)["question"]),
                 answers=tuple(json.loads(line)["answers"])) for line in rows.read_text().splitlines()]  # fmt: skip
    expected = token_weights(model.tokens, texts, model.tokens.added_ids[0]).bfloat16().float()
    torch.testing.assert_close(compressor.weight.data, expected)
    config = training_rows.config(
        "pretrain",
        tmp_path / "rate4",
        dataset=rows,
        pretrain_checkpoint=first,
        compress_rate=4,
        qa_loss=False,
        max_epochs=3,
    )
    start = starting_model(config, "cpu")
    assert torch.equal(start.residuals.of["compressor"].weight, compressor.weight)
    assert start.residuals.of["compressor"].memory_tokens == 8
    trained = ClaraModel.from_pretrained(train(config), dtype=torch.float32, device="cpu")
    assert not torch.equal(trained.residuals.of["compressor"].projection, compressor.projection)


def test_a_gate_that_stays_shut_trains_the_residual_alone_and_resumes_to_the_bit(
    base_folder: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    encoded = []
    encode = ClaraModel.encode
    monkeypatch.setattr(ClaraModel, "encode", lambda *args: encoded.append(1) or encode(*args))
    values = {"pretrain": base_folder, "dataset": rows, "residual": "anchors", "residual_gate": False,
              "mse_loss": False, "save_steps": 1, "max_ckpt_num": 9, "max_epochs": 3}  # fmt: skip
    whole = train(training_rows.config("pretrain", tmp_path / "whole", **values))
    start = starting_model(training_rows.config("pretrain", tmp_path, **values), "cpu").state()
    trained = ClaraModel.from_pretrained(whole, dtype=torch.float32, device="cpu").state()
    assert not trained.residual["residual.compressor.gate"].any()
    assert not torch.equal(trained.residual["residual.compressor.projection"],
                           start.residual["residual.compressor.projection"])  # fmt: skip
    assert torch.equal(trained.memory["compressor"], start.memory["compressor"])
    assert any(weight.any() for name, weight in trained.adapters["generator"].items() if "lora_B" in name)
    assert not any(weight.any() for name, weight in trained.adapters["compressor"].items() if "lora_B" in name)
    state = torch.load(whole / "checkpoint-1" / "optimizer.pt")["state"]
    assert {name.split(".")[0] for name in state} == {"generator", "residual"}
    assert "residual.compressor.gate" not in state
    again = tmp_path / "again"
    shutil.copytree(whole, again)
    for folder in sorted(again.glob("checkpoint-*"))[1:]:
        shutil.rmtree(folder)
    train(training_rows.config("pretrain", again, **values, load_checkpoint=True))
    for name, weight in load_file(whole / "adapters.safetensors").items():
        assert torch.equal(load_file(again / "adapters.safetensors")[name], weight), name
    assert not encoded


def test_a_gate_that_stays_shut_needs_a_residual_and_no_alignment(base_folder: Path, tmp_path: Path):
    values = {"dataset": "x", "pretrain": base_folder, "residual_gate": False}
    with pytest.raises(ClaraError, match="without residual_gate latents are the residual alone; pass --residual"):
        training_rows.config("pretrain", tmp_path, **values)
    with pytest.raises(ClaraError, match=r"mse_loss aligns states, .* pass --mse_loss false too"):
        training_rows.config("pretrain", tmp_path, residual="anchors", **values)
