"""Batches: token for token what `Tokens.example` gives, documents once, wordings that survive a resume, errors."""

import json
from pathlib import Path

import pytest
import recorded
import small_model
import torch
import training_rows
from safetensors.torch import load_file

from clara_model import ClaraConfig, ClaraModel
from clara_model.errors import ClaraError
from clara_model.modeling.tokens import Tokens
from trainers.data import collator as collator_module
from trainers.data.collator import Collator
from trainers.data.rows import Row, parse_row
from trainers.data.sampling import TrainingItem


def items(rows: list[dict], epoch: int = 0) -> list[TrainingItem]:
    return [TrainingItem(parse_row(row, f"rows:{n + 1}"), n, epoch) for n, row in enumerate(rows)]


def unpadded(ids: torch.Tensor, mask: torch.Tensor) -> list[list[int]]:
    return [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)]


def sequences(batch: dict[str, torch.Tensor]) -> tuple[list[list[int]], list[list[int]]]:
    return unpadded(batch["prompt_ids"], batch["prompt_mask"]), unpadded(batch["labels"], batch["prompt_mask"])


def test_stage_1_learns_all_pairs_after_one_prompt(tokens: Tokens):
    batch = Collator(tokens, "pretrain", top_k=1)(items(training_rows.stage1_rows(4)))
    ids, labels = sequences(batch)
    row = parse_row(training_rows.stage1_rows(1)[0])
    text = f"Question: Who came?\nAnswer: {row.answers[0]}\nQuestion: When?\nAnswer: {row.answers[1]}"
    expected = tokens.example(tokens.config.prompts.question_answering, 1, text, 2048)
    assert (ids[0], labels[0]) == (expected.ids, expected.labels)
    assert batch["document_index"].tolist() == [[0], [1], [2], [3]]


@pytest.mark.parametrize("text", ["plain", " leading", "trailing ", "</s> marker", "<MEM0>", "", "\ue010 mark"])
def test_filled_frames_equal_rendered_examples(tokens: Tokens, text: str):
    row = {"question": f"Who {text}?", "docs": ["a", "b"], "answer": text}
    ids, labels = sequences(Collator(tokens, "instruct")(items([row])))
    expected = tokens.example(tokens.config.prompts.answer, 2, text, 2048, f"Who {text}?")
    assert (ids[0], labels[0]) == (expected.ids, expected.labels)


def test_documents_equal_the_models_own_tokens(tokens: Tokens):
    texts = ["first", "second, longer", "<SEP> marker", "", "x" * 500, "first"]
    rows = [{"question": "q", "docs": texts, "answer": "a"}]
    batch = Collator(tokens, "instruct", top_k=9)(items(rows))
    assert batch["document_index"].tolist() == [[0, 1, 2, 3, 4, 0]]
    expected = [tokens.document_ids(text) for text in texts[:5]]
    assert unpadded(batch["document_ids"], batch["document_mask"]) == expected


def test_what_is_trained_is_what_is_served_where_tokens_are_long():
    """A tokenizer with tokens of hundreds of blanks reads further than 64 characters for each token that is kept."""
    unit = " " * 255 + "x"
    tokenizer = small_model.build_tokenizer([unit * 8] * 20)
    tokens = Tokens(tokenizer, ClaraConfig(base_model="none", doc_max_length=32, compression_rate=8))
    text = unit * 20
    served = tokens.document_ids(text)
    assert served != tokens.document_ids(text[: 64 * 35]), "the text shows the difference"
    batch = Collator(tokens, "end_to_end")(items([{"question": text, "docs": [text, "b"], "answer": text}]))
    assert unpadded(batch["document_ids"], batch["document_mask"])[0] == served
    assert unpadded(batch["question_ids"], batch["question_mask"])[0] == served
    expected = tokens.example(tokens.config.prompts.answer, 2, text, 2048, text)
    assert sequences(batch) == ([expected.ids], [expected.labels])


def test_a_batch_of_more_texts_than_are_kept(tokens: Tokens, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(collator_module, "KEPT", 2)
    rows = training_rows.question_rows(4)
    expected = [tokens.document_ids(text) for text in rows[0]["docs"]]
    batch = Collator(tokens, "end_to_end")(items(rows))
    assert unpadded(batch["document_ids"], batch["document_mask"])[: len(expected)] == expected


def test_a_collator_used_again_gives_the_same(tokens: Tokens):
    collator = Collator(tokens, "end_to_end")
    first, second = (collator(items(training_rows.question_rows(4))) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_each_answer_after_its_own_question(tokens: Tokens):
    batch = Collator(tokens, "pretrain", top_k=1, joined_pairs=False)(items(training_rows.stage1_rows(2)))
    ids, _ = sequences(batch)
    row = parse_row(training_rows.stage1_rows(1)[0])
    prompt = tokens.config.prompts.answer
    expected = [
        tokens.example(prompt, 1, answer, 2048, question).ids
        for question, answer in zip(row.questions, row.answers, strict=True)
    ]
    assert ids[:2] == expected and len(ids) == 3
    assert batch["document_index"].tolist() == [[0], [0], [1]], "the row's document is compressed once"


def test_stage_2_takes_rows_of_several_questions(tokens: Tokens):
    batch = Collator(tokens, "instruct")(items(training_rows.stage1_rows(1)))
    assert len(batch["prompt_ids"]) == 2 and batch["document_index"].tolist() == [[0], [0]]


@pytest.mark.parametrize("documents", [1, 3])
def test_documents_read_as_text_stand_as_they_are_served(tokens: Tokens, documents: int):
    rows = [
        {"question": f"Who {n}?", "docs": [f"text {n} {d}" for d in range(documents)], "answer": "a"} for n in range(60)
    ]
    batch = Collator(tokens, "instruct", expand_share=0.8)(items(rows))
    ids, _ = sequences(batch)
    prompt, counts = tokens.config.prompts.answer, []
    for number, row in enumerate(rows):
        index = [place for place in batch["document_index"][number].tolist() if place >= 0]
        counts.append(documents - len(index))
        assert index == list(range(documents * number + counts[-1], documents * (number + 1)))
        text = "\n\n".join(row["docs"][: counts[-1]])
        served = tokens.prompt_ids(prompt, len(index), row["question"], text=text)
        assert ids[number][: len(served)] == served
    assert 0.65 < sum(map(bool, counts)) / 60 < 0.95
    assert set(counts) == {0, 1, documents} and counts.count(1) > 30
    again = Collator(tokens, "instruct", expand_share=0.8)(items(rows))
    assert torch.equal(batch["prompt_ids"], again["prompt_ids"])


def test_wordings_depend_on_row_and_epoch_alone(tokens: Tokens):
    rows = training_rows.stage1_rows(40)
    collator = Collator(tokens, "pretrain", top_k=1, seed=3)
    whole = sequences(collator(items(rows)))[0]
    part = sequences(Collator(tokens, "pretrain", top_k=1, seed=3)(items(rows)[20:]))[0]
    assert whole[20:] == part
    assert sequences(collator(items(rows, epoch=1)))[0] != whole


def test_stage_3_batches(tokens: Tokens):
    rows = training_rows.question_rows(3)
    rows[1]["docs"], rows[1]["pos_index"] = rows[0]["docs"][:3], [1]
    batch = Collator(tokens, "end_to_end", top_k=4)(items(rows))
    assert batch["document_index"][1].tolist() == [0, 1, 2, -1, -1]
    assert batch["positives"][1].tolist() == [0, 1, 0, 0, 0]
    slots = [sum(token in tokens.memory_ids for token in ids) for ids in sequences(batch)[0]]
    assert slots == [16, 12, 16], "k slots, or as many as there are candidates"
    questions = unpadded(batch["question_ids"], batch["question_mask"])
    assert questions[0] == tokens.document_ids(rows[0]["question"])
    assert batch["rows"].tolist() == [0, 1, 2]


def test_retrieval_batches_hold_no_prompts(tokens: Tokens):
    batch = Collator(tokens, "pretrain_retrieval")(items(training_rows.question_rows(2)))
    assert "prompt_ids" not in batch and batch["positives"].sum() == 2


def test_fewer_candidates_keep_the_gold_ones(tokens: Tokens):
    row = {"question": "q", "docs": list("abcdef"), "answer": "a", "pos_index": [4]}
    batch = Collator(tokens, "end_to_end", top_k=2, candidates=3)(items([row]))
    assert batch["positives"].tolist() == [[0, 0, 1]]
    assert len(batch["document_ids"]) == 3


def test_stage_2_reads_the_first_documents(tokens: Tokens):
    row = {"question": "q", "docs": list("abcdef"), "answer": "a"}
    assert Collator(tokens, "instruct", top_k=2)(items([row]))["document_index"].tolist() == [[0, 1]]


def test_long_answers_lose_their_end(tokens: Tokens):
    row = {"question": "q", "docs": ["d"], "answer": "word " * 400 + "end"}
    ids, labels = sequences(Collator(tokens, "instruct", max_length=200)(items([row])))
    assert len(ids[0]) == 200 and labels[0][-1] == ids[0][-1]


@pytest.mark.parametrize(
    ("stage", "row", "settings", "message"),
    [
        (
            "instruct",
            {"question": "q " * 400, "docs": ["d"], "answer": "a"},
            {"max_length": 99},
            r"rows:1: .*max_len \(99",
        ),
        ("pretrain", {"question": ["q"], "docs": ["d", "e"], "answers": ["a"]}, {"top_k": 1}, "rows:1: 2 documents"),
        ("end_to_end", {"question": ["q", "r"], "docs": ["d"], "answers": ["a", "b"]}, {}, "rows:1: 2 questions"),
    ],
)
def test_unusable_rows_are_named(tokens: Tokens, stage, row, settings, message):
    with pytest.raises(ClaraError, match=message):
        Collator(tokens, stage, **settings)(items([row]))


@pytest.mark.parametrize("stage", ["instruct", "end_to_end"])
def test_a_long_question_leaves_the_answer_its_room_and_is_counted(tokens: Tokens, stage: str):
    rows = [
        {"question": f"{'why ' * n}?", "docs": ["d", "e"], "answer": "by the sea", "pos_index": [0]} for n in (3, 900)
    ]
    collate = Collator(tokens, stage, max_length=200)
    both, short = collate(items(rows)), collate(items(rows[:1]))
    assert both["shortened"].tolist() == [1] and "shortened" not in short
    assert both["prompt_ids"].shape[1] <= 200
    learned = [[i for i in row if i != -100] for row in both["labels"].tolist()]
    assert learned[0] == learned[1] == [i for i in short["labels"][0].tolist() if i != -100]


def test_the_text_readers_long_document_loses_its_end(tokens: Tokens):
    rows = [{"question": ["Who?"], "docs": ["a cat sat " * 300], "answers": ["the cat"]}]
    batch = Collator(tokens, "read_text", max_length=150, joined_pairs=False)(items(rows))
    assert batch["shortened"].tolist() == [1] and batch["prompt_ids"].shape[1] <= 150
    text = tokens.tokenizer.decode(batch["prompt_ids"][0])
    assert "a cat sat" in text and "Who?" in text and "the cat" in text


@pytest.mark.parametrize(("stage", "name", "k"), [("stage1_2", "instruct", 9), ("stage2", "end_to_end", 2)])
def test_parity_with_recorded_batches(goldens: Path, stage: str, name: str, k: int):
    """Ids, masks and labels of a stage-2 and a stage-3 training batch of the published implementation."""
    folder = recorded.need(goldens / "cases/mistral-a" / stage)
    case, tensors = json.loads((folder / "train.json").read_text()), load_file(folder / "train.safetensors")
    model = ClaraModel.from_pretrained(
        goldens / "ckpts/mistral-a" / stage,
        base_model=goldens / "bases/tiny-mistral",
        prompts=goldens / "prompts.json",
        dtype=torch.float32,
        device="cpu",
    )
    k = tensors["train.topk_idx"].shape[1] if "train.topk_idx" in tensors else k
    rows = [
        Row(documents=tuple(docs), questions=(question,), answers=(answer,), positives=tuple(positives))
        for docs, question, answer, _, positives in case["items"]
    ]
    collator = Collator(model.tokens, name, top_k=k, max_length=case["dec_max_len"])
    batch = collator([TrainingItem(row, n, 0) for n, row in enumerate(rows)])
    ids, labels = sequences(batch)
    recorded_mask = tensors["train.batch.dec_attention_mask"]
    assert ids == unpadded(tensors["train.batch.dec_input_ids"], recorded_mask)
    assert labels == unpadded(tensors["train.batch.labels"], recorded_mask)
