"""Damaged checkpoints and hostile folders: each loads and answers, or is refused in one sentence that names its folder.

Nothing that a folder holds is run, and nothing larger than its files is built. ``--fuzz-examples`` says how many.
"""

import json
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from clara_model import ClaraError, ClaraModel
from clara_model.checkpoint.chat_template import ChatTemplate

TEXTS, QUESTIONS = small_model.TEXTS, small_model.QUESTIONS
FUZZ = settings.get_profile("fuzz")
FILES = ("config.json", "adapters.safetensors")
BASE_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
              "generation_config.json")  # fmt: skip

JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.sampled_from([0, -1, 1, 7, 2**31, 10**9, 10**30, 0.5, 1e308, float("nan"), float("inf")])
    | st.text(max_size=8)
    | st.sampled_from(["", "llama", "bert", "../x", "<MEM0>", "{memory}", "\ud800", "planted.Planted"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


@pytest.fixture
def folders(tiny_clara_folder: Path, base_folder: Path, tmp_path: Path) -> Iterator[tuple[Path, Path, Path, Path]]:
    """A checkpoint and its base to be damaged, with the whole ones that they are copied from."""
    yield tiny_clara_folder, base_folder, tmp_path / "ours", tmp_path / "base"


def renewed(folders: tuple[Path, Path, Path, Path]) -> tuple[Path, Path]:
    whole, whole_base, ours, base = folders
    for source, target in ((whole, ours), (whole_base, base)):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    return ours, base


def loads_or_is_refused(ours: Path, base: Path) -> ClaraModel | None:
    """The model, which answers; or nothing, after one sentence. In little time and memory."""
    start, memory = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = None
    try:
        model = ClaraModel.from_pretrained(ours, base_model=base, dtype=torch.float32, device="cpu")
        texts, _ = model.generate_from_questions(QUESTIONS[:1], [TEXTS[:3]], 2)
        assert len(texts) == 1 and len(model.fingerprint) == 32
    except ClaraError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 1000, message
        if model is None:
            assert str(ours) in message or str(base) in message or "base model" in message, message
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2_000_000  # kilobytes
    return model


@FUZZ
@given(data=st.data())
def test_bytes_changed_anywhere(folders: Any, data: st.DataObject):
    ours, base = renewed(folders)
    names = [ours / name for name in FILES] + [base / name for name in BASE_FILES if (base / name).is_file()]
    path = data.draw(st.sampled_from(names))
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["cut", "flip", "insert", "empty", "header"]))
    at = data.draw(st.integers(0, min(len(content) - 1, 400 if kind == "header" else len(content) - 1)))
    if kind == "cut":
        del content[at:]
    elif kind == "empty":
        content = bytearray()
    elif kind == "insert":
        content[at:at] = data.draw(st.binary(min_size=1, max_size=9))
    else:
        content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    loads_or_is_refused(ours, base)


@FUZZ
@given(data=st.data())
def test_junk_in_a_json_file(folders: Any, data: st.DataObject):
    ours, base = renewed(folders)
    path = data.draw(st.sampled_from([ours / "config.json", base / "config.json", base / "tokenizer_config.json",
                                      base / "generation_config.json", base / "tokenizer.json"]))  # fmt: skip
    values = json.loads(path.read_text())
    inner = values
    for _ in range(data.draw(st.integers(0, 2))):
        deeper = [key for key in sorted(inner) if isinstance(inner[key], dict) and inner[key]]
        if not deeper:
            break
        inner = inner[data.draw(st.sampled_from(deeper))]
    key = data.draw(st.sampled_from([*sorted(inner), "auto_map", "quantization_config", "added"]))
    if data.draw(st.booleans()) and key in inner:
        del inner[key]
    else:
        inner[key] = data.draw(JUNK)
    path.write_text(json.dumps(values))
    loads_or_is_refused(ours, base)


@FUZZ
@given(data=st.data())
def test_tensors_of_another_form(folders: Any, data: st.DataObject):
    ours, base = renewed(folders)
    path = data.draw(st.sampled_from([ours / "adapters.safetensors", base / "model.safetensors"]))
    tensors = load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    tensor = tensors[name]
    kind = data.draw(st.sampled_from(["drop", "shape", "type", "nan", "rename", "huge"]))
    if kind == "drop":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = torch.ones(data.draw(st.lists(st.integers(0, 9), max_size=4)))
    elif kind == "type":
        tensors[name] = tensor.to(data.draw(st.sampled_from([torch.int8, torch.bool, torch.float64, torch.float16])))
    elif kind == "nan":
        tensors[name] = tensor * torch.nan
    elif kind == "huge":
        tensors[name] = tensor * 1e38
    else:
        tensors[data.draw(st.sampled_from(["memory.poet", "x", "compressor.y", f"{name}.z"]))] = tensors.pop(name)
    save_file(tensors, path, metadata={"format": "pt"})
    loads_or_is_refused(ours, base)


PIECES = [
    "{% for m in messages %}", "{% endfor %}", "{{ m.content }}", "{{ m['role'] }}", "{% if m.role == 'user' %}",
    "{% endif %}", "{% else %}", "{% for i in range(9999) %}", "{{ messages | tojson }}", "{{ 'a' * 99999999 }}",
    "{% set x = messages ~ messages %}", "{{ x }}", "{% macro f(n) %}", "{% endmacro %}", "{{ f(f) }}",
    "{{ loop.index }}",
    "{{ raise_exception('no') }}", "{{ messages.__class__ }}", "{{ 1 / 0 }}", "{{ bos_token }}", "{%- ", " -%}", "text",
    "{{ 9 ** 9 ** 9 }}", "{{ '%99999999d' % 1 }}", "{% include 'x' %}", "{{ self }}", "{{ cycler(1).next() }}",
    "{% set ns = namespace(x=1) %}", "{% set ns.x = ns.x * 99999 %}", "{{ messages | map('upper') | list }}",
    "{% filter center(9999999) %}", "{% endfilter %}", "{{ x | replace('', x) }}", "{% generation %}",
    "{% endgeneration %}",
]  # fmt: skip


@settings(FUZZ, max_examples=FUZZ.max_examples * 4)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=14))
def test_any_chat_template_ends(pieces: list[str]):
    tokenizer = small_model.build_tokenizer()
    tokenizer.chat_template = "".join(pieces)
    start = time.process_time()
    try:
        ChatTemplate(tokenizer).check(system=True)
    except ClaraError as error:
        assert "\n" not in str(error) and "the chat template in the tokenizer" in str(error)
    assert time.process_time() - start < 20


@FUZZ
@given(data=st.data())
def test_planted_code_is_never_run(folders: Any, data: st.DataObject):
    ours, base = renewed(folders)
    witness = base.parent / "witness"
    code = f"import os\nos.mkdir({str(witness)!r})\nclass Planted: pass\n"
    for folder in (ours, base):
        for name in data.draw(
            st.lists(st.sampled_from(["planted", "modeling_llama", "setup", "conftest"]), max_size=3)
        ):
            (folder / f"{name}.py").write_text(code)
    (base / "planted.py").write_text(code)
    path = base / data.draw(st.sampled_from(["config.json", "tokenizer_config.json"]))
    classes = ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer", "AutoModel"]
    form = st.sampled_from(["planted.Planted", "x--planted.Planted", ["planted.Planted", None], None])
    values = json.loads(path.read_text()) | {"auto_map": data.draw(st.dictionaries(st.sampled_from(classes), form))}
    values |= data.draw(
        st.sampled_from([{}, {"model_type": "planted"}, {"tokenizer_class": "Planted"}, {"architectures": ["Planted"]}])
    )
    path.write_text(json.dumps(values))
    loads_or_is_refused(ours, base)
    assert not witness.exists()
