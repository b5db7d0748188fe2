"""The three published scripts' command lines, verbatim but for paths and base, train, save and exit with 0."""

import shlex
from pathlib import Path

import pytest

from clara_model.inference.published import ClaraModel
from trainers.training.cli import main

COMMON = (
    "--train_batch_size 128 --micro_train_batch_size 2 --ckpt_path {out} --max_samples 500 --save_path {out} "
    "--save_steps -2 --logging_steps 1 --zero_stage 2 --max_epochs 1 --bf16 --flash_attn "
    "--doc_max_length 256 --compress_rate 32 --gradient_checkpointing "
)
"""What the three have in common (ml-clara commit 857c3cf, scripts/)."""
PRETRAINING = (
    "--max_len 2048 --dataset {stage1} --pretrain {base} --eval_steps 20 --learning_rate 1e-4 --stage stage1 "
    "--generation_top_k 1 --qa_loss --mse_loss " + COMMON
)
INSTRUCTION_TUNING = (
    "--max_len 2048 --dataset {questions} --pretrain {base} --pretrain_checkpoint {start} --eval_steps 30 "
    "--learning_rate 1e-4 --generation_top_k 5 --stage stage1_2 --mse_loss --do_eval_gen " + COMMON
)
END_TO_END = (
    "--max_len 1024 --dataset {questions} --pretrain {base} --pretrain_checkpoint {start} --eval_steps 100 "
    "--learning_rate 5e-6 --stage stage2 --lr_scheduler constant --generation_top_k 5 --qa_loss --do_eval_gen "
    + COMMON.replace("--train_batch_size 128", "--train_batch_size 32")
)


@pytest.fixture(scope="module")
def start(base_folder: Path, stage1_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the first script leaves, for the others to start from."""
    folder = tmp_path_factory.mktemp("pretraining")
    line = PRETRAINING.format(out=folder, stage1=stage1_file, base=base_folder)
    assert main(shlex.split(line)) == 0
    return folder


def test_pretraining(start: Path):
    model = ClaraModel.from_pretrained(start, device="cpu")
    assert model.config.stage == "pretrain" and model.config.memory_tokens == 8
    assert (start / "checkpoint-1" / "optimizer.pt").is_file(), "after the epoch, as --save_steps -2 asks"


@pytest.mark.parametrize(("line", "stage"), [(INSTRUCTION_TUNING, "instruct"), (END_TO_END, "end_to_end")])
def test_the_later_scripts(
    line: str, stage: str, start: Path, base_folder: Path, questions_file: Path, tmp_path: Path, caplog
):
    words = shlex.split(line.format(out=tmp_path, questions=questions_file, base=base_folder, start=start))
    assert main(words) == 0
    assert ClaraModel.from_pretrained(tmp_path, device="cpu").config.stage == stage
    for sentence in ("do_eval_gen does nothing without", "eval_steps does nothing without"):
        assert sentence in caplog.text
