"""A base whose file has the precision asked for is mapped: the processes of a machine share it, none holds a copy."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def large(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of 72 MiB in bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("large") / "base"
    shutil.copytree(base_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = LlamaConfig.from_pretrained(base_folder)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 1024, 4096, 2
    config.num_attention_heads, config.num_key_value_heads, config.head_dim = 8, 8, 128
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder, max_shard_size="20MB")
    return folder


IN_A_FRESH_PROCESS = """
import re, sys, torch
from pathlib import Path
from clara_model.checkpoint.base_model import load_base
from clara_model.checkpoint.options import LoadOptions

def own_memory():  # that no file stands behind
    text = Path("/proc/self/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\\s+(\\d+) kB", text, re.MULTILINE)[1]) * 1024

dtype = getattr(torch, sys.argv[2])
before = own_memory()
model, _ = load_base(sys.argv[1], LoadOptions(dtype=dtype, device="cpu"))
with torch.no_grad():
    model(torch.tensor([[1, 2, 3]]))
print(own_memory() - before, sum(one.numel() * one.element_size() for one in model.parameters()))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("dtype", "own"), [("bfloat16", False), ("float32", True)])
def test_only_another_precision_takes_memory_of_its_own(large: Path, dtype: str, own: bool):
    """In a process of its own: one that has run other tests hands out memory again that it holds already."""
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(large), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken, size = map(int, done.stdout.split())
    assert size > 60 * MEBIBYTE
    assert (taken > size / 4) is own
