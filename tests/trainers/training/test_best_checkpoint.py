"""What a run keeps and leaves behind: checkpoints by time, the best evaluation's weights, a preview, a card."""

import json
import re
from pathlib import Path

import pytest
import torch
import training_rows
from huggingface_hub import HfApi
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from clara_model import ClaraModel
from clara_model.checkpoint import hub
from clara_model.errors import ClaraError
from trainers.training import run
from trainers.training.callbacks import SaveByTime
from trainers.training.run import train
from trainers.training.trainer import ClaraTrainer


@pytest.fixture
def settings(pretrained: Path, questions_file: Path) -> dict:
    """A short run of stage 3 that is evaluated in every step."""
    return {
        "pretrain_checkpoint": pretrained, "dataset": questions_file, "max_steps": 4, "max_epochs": 6,
        "eval_dataset": questions_file, "eval_steps": 1,
    }  # fmt: skip


def evaluated(monkeypatch: pytest.MonkeyPatch, *figures: float) -> None:
    """The evaluation's figures, one for each time."""
    left = list(figures)
    monkeypatch.setattr(ClaraTrainer, "_evaluation_losses", lambda self, dataset: {"lm_loss": left.pop(0)})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapters.safetensors")


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_best_evaluations_weights_are_the_trained_checkpoint(settings, tmp_path, monkeypatch):
    evaluated(monkeypatch, 3.0, 2.0, 2.5, 2.4)
    train(training_rows.config("end_to_end", tmp_path, **settings, save_steps=1, max_ckpt_num=9, best_metric="lm_loss"))
    assert equal(weights(tmp_path), weights(tmp_path / "checkpoint-2"))
    assert not equal(weights(tmp_path), weights(tmp_path / "checkpoint-4"))


def test_a_run_that_gets_no_better_ends_also_after_a_resume(settings, tmp_path, monkeypatch):
    evaluated(monkeypatch, 2.0, 2.5, 2.5, 2.5)
    values = {**settings, "save_steps": 1, "best_metric": "eval_lm_loss", "early_stopping": 2}
    train(training_rows.config("end_to_end", tmp_path, **values))
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert max(steps) == 3 and equal(weights(tmp_path), weights(tmp_path / "checkpoint-1"))
    with pytest.raises(ClaraError, match="best_metric 'em' is not evaluated here; there are lm_loss"):
        evaluated(monkeypatch, 2.0)
        train(training_rows.config("end_to_end", tmp_path / "other", **settings, best_metric="em"))


def test_checkpoints_come_by_the_clock(settings, tmp_path, monkeypatch):
    values = {**settings, "eval_dataset": (), "eval_steps": -1}
    train(training_rows.config("end_to_end", tmp_path / "often", **values, save_minutes=1e-6, max_ckpt_num=9))
    assert len(list((tmp_path / "often").glob("checkpoint-*"))) == 4
    train(training_rows.config("end_to_end", tmp_path / "seldom", **values))
    assert not list((tmp_path / "seldom").glob("checkpoint-*"))
    clock, state, arguments = SaveByTime(10), TrainerState(), TrainingArguments(use_cpu=True)
    clock._last -= 601
    clock.on_step_end(arguments, state, due := TrainerControl())
    clock.on_save(arguments, state, TrainerControl())
    clock.on_step_end(arguments, state, early := TrainerControl())
    assert (due.should_save, early.should_save) == (True, False)


def test_the_first_batches_are_written_out(settings, tmp_path):
    train(training_rows.config("end_to_end", tmp_path, **settings))
    text = (tmp_path / "preview.txt").read_text()
    assert text.count("=== batch") == 3 and "gold at [" in text and "<SLOTS>" in text
    answers = {row["answer"] for row in training_rows.question_rows()}
    learned = [line for line in text.splitlines() if line.startswith("[learned]")]
    assert len(learned) == 12 and all(any(answer[1:] in line for answer in answers) for line in learned)
    assert not any(re.search(r"17\d\d", line) for line in text.splitlines() if line.startswith("[prompt]"))


def test_the_card_tells_data_settings_figures_and_is_sent_along(settings, tmp_path, monkeypatch, questions_file):
    sent = {}

    def upload(self, *, repo_id: str, folder_path: str) -> str:
        sent[repo_id] = sorted(path.name for path in Path(folder_path).iterdir())
        return "https://hub/commit"

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, private, exist_ok: sent.update(private=private))
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    train(training_rows.config("end_to_end", tmp_path, **settings, push_to_hub="me/mine", use_wandb=""))
    text = (tmp_path / "README.md").read_text()
    assert "| questions.jsonl | 16 | 0 |" in text and "| learning_rate | 0.01 |" in text
    assert "eval_lm_loss" in text and str(questions_file.parent) not in text
    assert sent == {"private": True, "me/mine": ["README.md", "adapters.safetensors", "config.json"]}
    assert hub.licence(tmp_path) is None
    (tmp_path / "README.md").write_text("my own")
    run.model_card.write(training_rows.config("end_to_end", tmp_path, **settings), ClaraModel.from_pretrained(
        tmp_path, dtype=torch.float32, device="cpu").config, [], [], tmp_path)  # fmt: skip
    assert (tmp_path / "README.md").read_text() == "my own"
