"""Loaders of published systems, on small random weights in their formats, against values worked out by hand.

With the output layers of attention and MLP at zero a model's states are the norm of its inputs, so a vector can be
written down; with nothing at zero it is compared with a pass over inputs that are put together here.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from eval_rows import RANDOM, questions
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from small_model import QUESTIONS, TEXTS, build_base, build_tokenizer
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertTokenizerFast,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    OPTConfig,
    OPTForCausalLM,
)

from clara_model import Clara
from clara_model.errors import ClaraError
from trainers.evaluation.answerers import Budget
from trainers.evaluation.cli import main
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Pool, Question
from trainers.evaluation.rankers import Ranked
from trainers.evaluation.systems import autocompressor, pcc, published_reader, xrag
from trainers.evaluation.systems.llmlingua import LLMLingua2, best

HIDDEN = 32
SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


@pytest.fixture(scope="module")
def clara(tiny_clara_folder: Path):
    with Clara.load(tiny_clara_folder, dtype="float32", device="cpu") as clara:
        yield clara


def save(folder: Path, model, tokenizer, **more: torch.Tensor) -> Path:
    """A folder with a pickled state, as the older of these systems publish theirs, and further tensors in it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save({**model.state_dict(), **{name.replace("__", "."): value for name, value in more.items()}},
               folder / "pytorch_model.bin")  # fmt: skip
    tokenizer.save_pretrained(folder)
    return folder


def identity(model) -> None:
    """Let every layer pass on what it is given."""
    ends = ("o_proj", "down_proj", "out_proj", "fc2", "attn.c_proj", "mlp.c_proj")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(end in name for end in ends) or ("embed_positions" not in name and name.endswith(".bias")):
                parameter.zero_()


def random_norms(model) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "ln_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def mistral(vocabulary: int, kind=MistralForCausalLM):
    torch.manual_seed(3)
    model = kind(MistralConfig(vocab_size=vocabulary, **SIZES))
    random_norms(model)
    return model.eval()


def written_alone(model, prompt_LD: torch.Tensor, count: int, positions=None) -> list[int]:
    """Greedy ids, the whole input anew for each."""
    ids: list[int] = []
    with torch.no_grad():
        for _ in range(count):
            rows = torch.cat([prompt_LD, model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))])
            more = {} if positions is None else {"position_ids": positions(len(rows))[None]}
            ids.append(int(model(inputs_embeds=rows[None], **more).logits[0, -1].argmax()))
    return ids


def check_reader(reader, clara) -> None:
    """It reads passages of a question, counts them, and writes what its decoder writes from its prompt."""
    question = Question(number=0, text=QUESTIONS[0], references=("x",), pool=Pool(TEXTS, range(5)))
    reader.stops = ()
    with torch.no_grad():
        blocks = [reader.compress(TEXTS[place]) for place in (2, 0)]
        prompt = reader.prompt(QUESTIONS[0], blocks)
    (read,) = reader.read([question], [Ranked([2, 0, 1])], meter := Meter())
    assert (read.passages, read.left_out) == (2, 0) and {"compress", "generate"} == meter.seconds.keys()
    assert read.text_tokens == clara.count_tokens(TEXTS[2]) + clara.count_tokens(TEXTS[0])
    assert read.written.prompt_tokens == len(prompt)
    ids = written_alone(reader.decoder, prompt, 6, lambda n: reader.positions(blocks, n)) if (
        reader.positions(blocks, len(prompt)) is not None
    ) else written_alone(reader.decoder, prompt, 6)  # fmt: skip
    ended = next((place + 1 for place, one in enumerate(ids) if one in reader.ends), 6)
    assert read.written.completion_tokens == ended
    assert read.written.text == reader.tokenizer.decode(ids[:ended], skip_special_tokens=True).strip()
    reader.budget = Budget(2, 6, prompt_tokens=len(reader.prompt(QUESTIONS[0], blocks[:1])))
    (less,) = reader.read([question], [Ranked([2, 0, 1])], Meter())
    assert (less.passages, less.left_out) == (1, 1)


# -- AutoCompressor ------------------------------------------------------------------------------------------------


def autocompressor_folder(folder: Path, kind: str, *, flat: bool) -> Path:
    tokenizer = build_tokenizer()
    if kind == "llama":
        model = build_base(seed=5, hidden=HIDDEN, vocabulary=len(tokenizer))
    else:
        torch.manual_seed(5)
        model = OPTForCausalLM(OPTConfig(
            vocab_size=len(tokenizer), hidden_size=HIDDEN, word_embed_proj_dim=HIDDEN, ffn_dim=48, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=512, pad_token_id=1, bos_token_id=0, eos_token_id=1,
        ))  # fmt: skip
        with torch.no_grad():
            model.model.decoder.embed_positions.weight.mul_(40)  # so that a word's place is seen in what is written
    random_norms(model)
    if flat:
        identity(model)
    return save(folder, model.eval(), tokenizer, embed_summary__weight=torch.randn(3, HIDDEN))


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_autocompressors_summaries_of_two_segments(tmp_path, clara, monkeypatch, kind):
    monkeypatch.setattr(autocompressor, "SEGMENT", 5)
    folder = autocompressor_folder(tmp_path / "flat", kind, flat=True)
    reader = published_reader("autocompressor", str(folder), clara, Budget(2, 6))
    text = reader.tokenizer.decode(reader.text_ids(TEXTS[0])[:8])
    assert len(reader.text_ids(text)) == 8  # segments of 5 and 3
    with torch.no_grad():
        made = reader.compress(text)
        summary = torch.load(folder / "pytorch_model.bin")["embed_summary.weight"]
        if kind == "llama":
            expected = reader.decoder.model.norm(summary)
        else:  # the position of padding
            inner = reader.decoder.model.decoder
            expected = inner.final_layer_norm(summary + inner.embed_positions.weight[1])
    assert made.shape == (6, HIDDEN)
    torch.testing.assert_close(made, torch.cat([expected, expected]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "opt"])
def test_autocompressor_reads_each_segment_after_the_summaries_before_it(tmp_path, clara, monkeypatch, kind):
    monkeypatch.setattr(autocompressor, "SEGMENT", 5)
    reader = published_reader(
        "autocompressor", str(autocompressor_folder(tmp_path / kind, kind, flat=False)), clara, Budget(2, 6)
    )
    model, summary = reader.decoder, reader._summary
    text = reader.tokenizer.decode(reader.text_ids(TEXTS[1])[:8])
    rows = model.get_input_embeddings()(torch.tensor(reader.text_ids(text)))
    with torch.no_grad():

        def last(inputs: torch.Tensor, words: range) -> torch.Tensor:
            more = {}
            if kind == "opt":  # rows 2, 3, .. of the table for words, row 1 for all else
                places = torch.full((len(inputs),), -1)
                places[words.start : words.stop] = torch.arange(len(words))
                more = {"position_ids": places[None]}
            return model.base_model(inputs_embeds=inputs[None], **more).last_hidden_state[0, -3:]

        first = last(torch.cat([rows[:5], summary]), range(0, 5))
        second = last(torch.cat([first, rows[5:], summary]), range(3, 6))
        torch.testing.assert_close(reader.compress(text), torch.cat([first, second]), atol=1e-5, rtol=1e-5)
    check_reader(reader, clara)


def test_a_model_without_summaries_is_refused(tmp_path, clara):
    folder = save(tmp_path / "plain", build_base(), build_tokenizer())
    with pytest.raises(ClaraError, match=r"holds no 'embed_summary.weight', which the weights of AutoCompr"):
        published_reader("autocompressor", str(folder), clara, Budget(2, 6))


# -- xRAG ----------------------------------------------------------------------------------------------------------


def xrag_folder(folder: Path, *, flat: bool, layers: list[torch.Tensor]) -> Path:
    words = build_tokenizer()
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>", "additional_special_tokens": [xrag.MARK]})
    named = {
        f"projector__projector__{layer}__{part}": tensor
        for (layer, part), tensor in zip([(0, "weight"), (0, "bias"), (2, "weight"), (2, "bias")], layers, strict=True)
    }
    embedder = mistral(len(words), MistralModel)
    if flat:
        identity(embedder)
        with torch.no_grad():
            embedder.norm.weight.fill_(1.0)
            end = torch.full((HIDDEN,), (27 / 29) ** 0.5)  # mean square 1, so the norm leaves it as it is
            end[:3] = torch.tensor([0.0, 1.0, 2.0])
            embedder.embed_tokens.weight[1] = end
    embedder.save_pretrained(folder / "embedder")
    words.save_pretrained(folder / "embedder")
    return save(folder, mistral(len(tokenizer)), tokenizer, **named)


def test_xrags_slot_by_hand(tmp_path, clara):
    one = torch.eye(HIDDEN)
    folder = xrag_folder(tmp_path, flat=True, layers=[one, torch.zeros(HIDDEN), one, torch.ones(HIDDEN)])
    reader = published_reader("xrag", str(folder), clara, Budget(2, 6))
    with torch.no_grad():
        (slot,) = reader.compress(TEXTS[0])
    assert slot[:3].tolist() == pytest.approx([1.0, 1.8413, 2.9545], abs=1e-4)


def test_xrag_projects_the_last_state_and_puts_it_in_the_marks_place(tmp_path, clara):
    torch.manual_seed(7)
    layers = [torch.randn(HIDDEN, HIDDEN), torch.randn(HIDDEN), torch.randn(HIDDEN, HIDDEN), torch.randn(HIDDEN)]
    reader = published_reader("xrag", str(xrag_folder(tmp_path, flat=False, layers=layers)), clara, Budget(2, 6))
    text = " ".join(TEXTS * 3)  # longer than what is read
    ids = [0, *reader.text_ids(text)[: xrag.TOKENS - 2], 1]
    with torch.no_grad():
        state = reader.embedder(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        expected = layers[2] @ F.gelu(layers[0] @ state + layers[1]) + layers[3]
        torch.testing.assert_close(reader.compress(text)[0], expected, atol=1e-4, rtol=1e-4)
        blocks = [torch.full((1, HIDDEN), 5.0), torch.full((1, HIDDEN), 7.0)]
        prompt = reader.prompt(f"What is {xrag.MARK} here", blocks)
    marks = [place for place, row in enumerate(prompt) if bool((row == row[0]).all())]
    assert prompt[marks, 0].tolist() == [5.0, 7.0]
    before = reader.tokenizer("[INST] Refer to the background document and answer the questions:\n\nBackground: ",
                              add_special_tokens=False).input_ids  # fmt: skip
    assert marks[0] == 1 + len(before)
    check_reader(reader, clara)


def test_an_answer_of_xrag_ends_before_the_first_sign(tmp_path, clara, monkeypatch):
    layers = [torch.eye(HIDDEN), torch.zeros(HIDDEN)] * 2
    reader = published_reader("xrag", str(xrag_folder(tmp_path, flat=False, layers=layers)), clara, Budget(2, 9))
    ids = iter(reader.text_ids("the mill, 1962"))

    class Next:
        past_key_values = None

        def __init__(self) -> None:
            self.logits = F.one_hot(torch.tensor([[next(ids)]]), len(reader.tokenizer)).float()

    monkeypatch.setattr(type(reader.decoder), "forward", lambda self, **inputs: Next())
    written = reader.write(torch.zeros(4, HIDDEN))
    assert (written.text, written.finish_reason, written.prompt_tokens) == ("the mill", "stop", 4)


# -- COCOM ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cocom(tmp_path: Path):
    """The folder, and the same model by PEFT, unmerged."""
    tokenizer = build_tokenizer()
    save(tmp_path / "base", mistral(len(tokenizer)), tokenizer)
    base = mistral(len(tokenizer) + 4)
    tuned = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    folder = tmp_path / "cocom"
    folder.mkdir()
    save_file({f"decoder.{name}": tensor.clone() for name, tensor in tuned.state_dict().items()},
              folder / "model.safetensors")  # fmt: skip
    config = {"model_type": "COCOM", "decoder_model_name": str(tmp_path / "base"), "compr_model_name": None,
              "compr_rate": 4, "lora": True, "lora_r": 4, "sep": True}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder, tuned.eval()


def test_cocoms_vectors_are_the_states_at_memory_tokens_after_the_text(cocom, clara):
    folder, tuned = cocom
    reader = published_reader("cocom", str(folder), clara, Budget(2, 6))
    text = reader.tokenizer.decode(reader.text_ids(TEXTS[1])[:10])
    ids = reader.text_ids(text)
    assert len(ids) == 10
    memory, _, start, end = range(400, 404)
    whole = torch.tensor([[start, 0, *ids, 1, *[memory] * 3]])
    with torch.no_grad():
        states = tuned.get_base_model().model(input_ids=whole).last_hidden_state[0]
        made, other = reader.compress(text), reader.compress(TEXTS[2])
        torch.testing.assert_close(made, states[13:16], atol=1e-5, rtol=1e-5)
        assert not torch.allclose(made, other[:3])  # they depend on the text
        assert len(reader.compress(" ".join(TEXTS * 9))) == 128 // 4 and len(reader.compress("")) == 1
        prompt = reader.prompt(QUESTIONS[0], [made, other])
        rows = tuned.get_input_embeddings().weight
        asked = rows[reader.text_ids(f"[INST]{QUESTIONS[0]}\n[/INST]\n")]
        expected = torch.cat([rows[:1], made, rows[end : end + 1], other, rows[end : end + 1], asked])
    torch.testing.assert_close(prompt, expected)
    check_reader(reader, clara)


def test_what_is_no_cocom_is_refused(cocom, clara, tmp_path):
    folder, _ = cocom
    (folder / "config.json").write_text('{"compr_rate": 4}')
    with pytest.raises(ClaraError, match="names no compr_rate and decoder_model_name"):
        published_reader("cocom", str(folder), clara, Budget(2, 6))
    values = {"compr_rate": 4, "decoder_model_name": str(tmp_path / "base"), "compr_model_name": "bert"}
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(ClaraError, match="compresses by a model of its own, 'bert'"):
        published_reader("cocom", str(folder), clara, Budget(2, 6))


# -- PCC -----------------------------------------------------------------------------------------------------------


def pcc_folder(folder: Path, *, flat: bool) -> Path:
    words, tokenizer = build_tokenizer(), build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["</mem>", "<ae>", "<mem>"]})  # in an order of its own
    torch.manual_seed(9)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 512}
    compressor = GPT2LMHeadModel(GPT2Config(vocab_size=len(words) + 64, bos_token_id=0, eos_token_id=1, **sizes))
    random_norms(compressor)
    if flat:
        identity(compressor)
    save(folder / "decoder", build_base(hidden=HIDDEN, vocabulary=len(tokenizer)), tokenizer)
    converter = {
        "RMSNorm.weight": torch.randn(16),
        "dense_in.weight": torch.randn(HIDDEN, 16),
        "dense_in.bias": torch.randn(HIDDEN),
        "dense_out.weight": torch.randn(HIDDEN, HIDDEN),
        "dense_out.bias": torch.randn(HIDDEN),
    }
    save(folder, compressor.eval(), words)
    torch.save(converter, folder / "memory_converter.bin")
    return folder


def converted(found: dict[str, torch.Tensor], state: torch.Tensor) -> torch.Tensor:
    normed = found["RMSNorm.weight"] * state / (state.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    inner = F.gelu(normed @ found["dense_in.weight"].T + found["dense_in.bias"])
    return inner @ found["dense_out.weight"].T + found["dense_out.bias"]


def test_pccs_vectors_by_hand(tmp_path, clara, monkeypatch):
    monkeypatch.setattr(pcc, "PIECE", 256)
    reader = published_reader("pcc", str(pcc_folder(tmp_path / "lite-64x", flat=True)), clara, Budget(2, 6))
    ids = (reader._words(" ".join(TEXTS * 5), add_special_tokens=False).input_ids)[:300]
    monkeypatch.setattr(reader, "_words", lambda text, **_: {"input_ids": ids})
    inner = reader.compressor.transformer
    found = torch.load(tmp_path / "lite-64x" / "memory_converter.bin")
    with torch.no_grad():
        made = reader.compress("any")
        states = [inner.ln_f(inner.wte.weight[400:404] + inner.wpe.weight[length : length + 4]) for length in (256, 44)]
        torch.testing.assert_close(made, converted(found, torch.cat(states)), atol=1e-4, rtol=1e-4)
        prompt = reader.prompt(QUESTIONS[0], [made])
        rows = reader.decoder.get_input_embeddings().weight
    assert len(prompt) == 13 + len(reader.text_ids(f"Question: {QUESTIONS[0]}\n\nAnswer: "))
    end, start = rows[400], rows[402]
    expected = torch.stack([rows[0], start, *made[:4], end, start, *made[4:], end])
    torch.testing.assert_close(prompt[:13], expected)


def test_pcc_reads_each_piece_by_itself(tmp_path, clara):
    reader = published_reader("pcc", str(pcc_folder(tmp_path / "lite-16x", flat=False)), clara, Budget(2, 6))
    ids = reader._words(TEXTS[3], add_special_tokens=False).input_ids
    whole = torch.tensor([[*ids, *range(400, 416)]])
    found = torch.load(tmp_path / "lite-16x" / "memory_converter.bin")
    with torch.no_grad():
        states = reader.compressor.transformer(input_ids=whole).last_hidden_state[0, -16:]
        torch.testing.assert_close(reader.compress(TEXTS[3]), converted(found, states), atol=1e-4, rtol=1e-4)
    check_reader(reader, clara)


def test_what_is_no_pcc_is_refused(tmp_path, clara):
    with pytest.raises(ClaraError, match="does not end with its rate, such as -16x"):
        published_reader("pcc", str(tmp_path), clara, Budget(2, 6))
    folder = pcc_folder(tmp_path / "lite-16x", flat=False)
    found = torch.load(folder / "memory_converter.bin")
    torch.save({**found, "dense_in.weight": torch.zeros(8, 16)}, folder / "memory_converter.bin")
    with pytest.raises(ClaraError, match=r"is another converter: dense_in has \(8, 16\), not \(32, 16\)"):
        published_reader("pcc", str(folder), clara, Budget(2, 6))


# -- LLMLingua-2 ---------------------------------------------------------------------------------------------------


def test_words_above_the_percentile_of_the_rate_are_kept():
    words = [(0, 1, 0.1), (2, 3, 0.2), (4, 5, 0.3), (6, 7, 0.4)]  # threshold 0.2 + 0.53 * 0.1
    assert best(words, [1] * 4, 0.5) == words[2:]
    assert best(words, [1, 1, 1, 9], 0.5) == []  # the last is three quarters of all: threshold 0.4
    assert best(words, [1] * 4, 1.0) == words and best([], [], 0.5) == []
    many = [(n, n + 1, n / 100) for n in range(101)]  # percentile 51, not 50, of 0.00 to 1.00
    assert best(many, [1] * 101, 0.5) == many[52:]


@pytest.fixture(scope="module")
def lingua(tmp_path_factory: pytest.TempPathFactory) -> LLMLingua2:
    folder = tmp_path_factory.mktemp("lingua")
    words = ["the", "tide", "clock", "cat", "##alogue", "##d", "in", ".", ",", "1962"]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForTokenClassification(BertConfig(vocab_size=len(tokenizer), num_labels=2, **sizes))
    with torch.no_grad():
        model.classifier.weight.mul_(20)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LLMLingua2(str(folder))


def test_a_words_chance_is_its_tokens_mean_and_text_is_cut_out_of_the_original(lingua):
    text = "The  tide clock catalogued in 1962."
    ids = lingua._words(text).input_ids
    with torch.no_grad():
        chances = lingua._model(input_ids=torch.tensor([ids])).logits.softmax(-1)[0, 1:-1, 1].tolist()
    (words,) = lingua._pieces(text)
    assert [text[start:end] for start, end, _ in words] == ["The", "tide", "clock", "catalogued", "in", "1962", "."]
    means = [*chances[:3], sum(chances[3:6]) / 3, *chances[6:]]
    assert [chance for *_, chance in words] == pytest.approx(means, abs=1e-6)
    threshold = sorted(means)[3]  # of 7 the percentile 51 lies just above the middle one
    kept = [text[start:end] for start, end, chance in words if chance > threshold]
    assert lingua.shorten(text, 0.5, lambda word: 1).split() == " ".join(kept).replace(" .", ".").split()
    assert (
        lingua.shorten(text, 1.0, len) == "The tide clock catalogued in 1962." and lingua.shorten(" ", 0.5, len) == " "
    )


def test_a_long_text_is_read_in_pieces_that_end_with_sentences(lingua):
    text = "the tide clock in 1962. " * 120  # 720 tokens
    pieces = lingua._pieces(text)
    assert [len(piece) for piece in pieces] == [510, 210]
    assert all(text[piece[-1][0] : piece[-1][1]] == "." for piece in pieces)


def test_an_unknown_word_and_a_sentencepiece_vocabulary(lingua, monkeypatch):
    monkeypatch.setattr(lingua, "_pieced", False)
    merged = lingua._merged(["▁the", "▁cl", "ock", ".", "▁in"], [(0, 3), (3, 6), (6, 9), (9, 10), (10, 13)],
                            [0.1, 0.2, 0.4, 0.5, 0.6])  # fmt: skip
    assert [(start, end) for start, end, _ in merged] == [(0, 3), (3, 9), (9, 10), (10, 13)]
    assert [chance for *_, chance in merged] == pytest.approx([0.1, 0.3, 0.5, 0.6])


# -- the paper's table ---------------------------------------------------------------------------------------------


def test_the_papers_table_is_one_command(tmp_path, tiny_clara_folder, lingua, cocom, capsys):
    folder, _ = cocom
    rows = f"clara,pisco,cocom:{folder},llmlingua:{lingua.folder},text,closed"
    other = shutil.copytree(tiny_clara_folder, tmp_path / "another")
    models = ["--model", str(tiny_clara_folder), "--pisco", str(other)]
    data = ["--datasets", str(questions(tmp_path, 3)), "--settings", "normal", "--out", str(tmp_path / "paper")]
    assert main(["paper", "--rows", rows, *models, *data, *RANDOM]) == 0
    shown = capsys.readouterr().out
    found = [json.loads(path.read_text()) for path in (tmp_path / "paper").rglob("summary.json")]
    (summary,) = [one for one in found if "text" in one["systems"]]
    lines = [line.strip("| ").split(" | ") for line in (tmp_path / "paper" / "paper.md").read_text().splitlines()]
    assert lines[0] == ["system", "questions normal F1", "questions normal EM"]
    figures = {line[0]: line[1:] for line in lines[2:]}
    assert list(figures) == rows.split(",")
    assert figures["clara"] == figures["pisco"]
    for row in ("clara", "text", "closed"):
        scores = summary["systems"][row]["metrics"]
        assert figures[row] == [f"{100 * scores[name]['value']:.1f}" for name in ("f1", "em")]
    assert all(row.partition(":")[0] in shown for row in figures)


def test_an_unknown_row_of_the_table_is_one_sentence(capsys):
    assert main(["paper", "--rows", "clara,pisc"]) == 2
    assert capsys.readouterr().err == (
        "clara-eval: unknown row 'pisc'; there are clara, pisco, autocompressor, cocom, pcc, xrag, llmlingua, text, "
        "closed, and all\n"
    )
