"""The world behind `clara-tiny`: seeded, documents of bounded length, one gold document per question, unseen names."""

from __future__ import annotations

import itertools
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

TINY = Path(__file__).resolve().parents[2] / "examples" / "tiny"
sys.path.insert(0, str(TINY))

import base  # noqa: E402
import chats  # noqa: E402
import data  # noqa: E402
import tokenizer as tiny_tokenizer  # noqa: E402
import world as tiny_world  # noqa: E402
from world import World  # noqa: E402


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer.build_tokenizer(documents=500)


def names(rows: list[dict]) -> set[str]:
    """All invented words in the documents and answers of rows."""
    text = " ".join(text for row in rows for text in [*row["docs"], row["gold_answer"]])
    return {word for word in re.findall(r"[A-Z][a-z]+", text) if word.lower() not in tiny_world.KNOWN_WORDS}


@pytest.mark.parametrize("rows", [data.stage1_rows, data.stage2_rows, data.stage3_rows])
def test_the_same_seed_gives_the_same_rows(rows):
    assert list(rows(World(5), 40)) == list(rows(World(5), 40))
    assert list(rows(World(5), 40)) != list(rows(World(6), 40))


def test_every_answer_stands_in_its_document():
    for row in data.stage1_rows(World(1), 300):
        if row["data_type"] == "qa":
            assert len(row["question"]) == len(row["answers"]) == len(set(row["answers"]))
            assert all(re.search(rf"\b{answer}\b", row["docs"][0]) for answer in row["answers"])


def test_a_paraphrase_states_the_same_values_in_other_words():
    world = World(2)
    for entity in world.entities(100):
        text, again = world.document(entity), world.tell(entity)
        assert text != again
        assert all(re.search(rf"\b{fact.value}\b", told) for fact in entity.facts for told in (text, again))


@pytest.mark.parametrize("rows", [data.stage2_rows, data.stage3_rows])
def test_exactly_one_candidate_is_about_the_asked_entity(rows):
    asking = [row for row in rows(World(3), 96) if row.get("data_type") != "paraphrase"]
    assert len(asking) > 48
    for row in asking:
        (gold,) = row["pos_index"]
        assert len(set(row["docs"])) == len(row["docs"])
        asked = [
            name
            for name in re.findall(r"the [a-z]+ [A-Z][a-z]+|[A-Z][a-z]+ [A-Z][a-z]+|[A-Z][a-z]+", row["question"][1:])
            if name
        ]
        assert len(asked) == 1
        holding = [i for i, text in enumerate(row["docs"]) if re.search(rf"\b{asked[0]}\b", text, re.IGNORECASE)]
        assert gold in holding
        assert re.search(rf"\b{row['gold_answer']}\b", row["docs"][gold])
        if " " in asked[0]:
            assert holding == [gold]


def test_stage_2_documents_come_in_the_order_of_a_keyword_search():
    rows = [row for row in data.stage2_rows(World(12), 2 * data.GROUP) if len(row["docs"]) > 1]
    found = [[len(set(row["question"].strip("?").split()) & set(re.findall(r"\w+", text))) for text in row["docs"]]
             for row in rows]  # fmt: skip
    assert all(counts == sorted(counts, reverse=True) for counts in found)
    assert 0.7 < sum(row["pos_index"] == [0] for row in rows) / len(rows) < 1


def test_stage_2_has_paraphrases_among_its_questions():
    drawn = list(data.stage2_rows(World(13), 10 * data.GROUP))
    again = [row for row in drawn if row.get("data_type") == "paraphrase"]
    assert len(again) / len(drawn) == pytest.approx(0.33, abs=0.05)
    assert sum(row["docs"][0].endswith("?") for row in again) / len(again) == pytest.approx(0.5, abs=0.1)


def test_among_relatives_every_document_answers_and_only_the_name_tells_which_is_asked():
    rows = list(data.named_rows(World(14), 20 * data.NAMED_GROUP, (2,), ("relatives",)))
    assert rows == list(data.named_rows(World(14), 20 * data.NAMED_GROUP, (2,), ("relatives",)))
    pairs = [row for row in rows if len(row["docs"]) == 2]
    assert 1 - len(pairs) / len(rows) == pytest.approx(data.NAMED_ALONE, abs=0.04)
    assert sum(row["pos_index"][0] for row in pairs) / len(pairs) == pytest.approx(0.5, abs=0.1), "at either place"
    answers = {text: set() for row in pairs for text in row["docs"]}
    for row in pairs:
        answers[row["docs"][row["pos_index"][0]]].add(asked_relation(row["question"]))
    for start in range(0, len(rows), data.NAMED_GROUP):
        shared = {text for row in rows[start : start + data.NAMED_GROUP] for text in row["docs"]}
        assert len(shared) <= data.NAMED_POOL
        asked = set().union(*(answers.get(text, set()) for text in shared))
        assert len(asked) <= 5, "the same relations in every document"


def asked_relation(question: str) -> str:
    """The relation whose wording a question has."""
    relations = [relation for kind in tiny_world.RELATIONS.values() for relation in kind]
    (found,) = {
        relation.name
        for relation in relations
        for wording in relation.questions
        if re.fullmatch(re.escape(wording).replace(re.escape("{e}"), ".+"), question)
    }
    return found


def test_named_rows_have_as_many_documents_as_asked_for_and_kinds_of_pools_in_turn():
    rows = list(data.named_rows(World(15), 10 * data.NAMED_GROUP, (3, 5), ("alike", "mixed")))
    assert {len(row["docs"]) for row in rows} == {1, 3, 5}
    of = {relation.name: kind for kind, relations in tiny_world.RELATIONS.items() for relation in relations}
    groups = [rows[start : start + data.NAMED_GROUP] for start in range(0, len(rows), data.NAMED_GROUP)]
    kinds = [{of[asked_relation(row["question"])] for row in group} for group in groups]
    assert all(len(found) == 1 for found in kinds[::2])
    assert all(len(found) > 1 for found in kinds[1::2])


def test_lookalikes_are_what_a_search_by_words_gives_in_random_order():
    rows = list(data.lookalike_rows(World(16), 200, group=50))
    five = [row for row in rows if len(row["docs"]) == data.READ]
    assert 1 - len(five) / len(rows) == pytest.approx(data.NAMED_ALONE, abs=0.05)
    assert {row["pos_index"][0] for row in five} == set(range(data.READ))
    pools = [{text for row in rows[start : start + 50] for text in row["docs"]} for start in range(0, 200, 50)]
    for number, row in enumerate(rows):
        words = set(re.findall(r"\w+", row["question"]))
        shared = {text: len(words & set(re.findall(r"\w+", text))) for text in pools[number // 50]}
        beside = [shared[text] for place, text in enumerate(row["docs"]) if place != row["pos_index"][0]]
        left = [count for text, count in shared.items() if text not in row["docs"]]
        assert not beside or min(beside) >= max(left)
    assert re.search(rf"\b{five[0]['gold_answer']}\b", five[0]["docs"][five[0]["pos_index"][0]])


@pytest.mark.parametrize(
    "rows",
    [
        lambda share: data.named_rows(World(17), 600, (2,), ("relatives",), share),
        lambda share: data.lookalike_rows(World(17), 600, 60, share),
    ],
)
def test_rows_by_name_tell_documents_and_questions_again_where_asked_to(rows):
    drawn = list(rows(0.33))
    again = [row for row in drawn if row.get("data_type") == "paraphrase"]
    assert len(again) / len(drawn) == pytest.approx(0.33, abs=0.06)
    assert sum(row["docs"][0].endswith("?") for row in again) / len(again) == pytest.approx(0.5, abs=0.1)
    assert not any("data_type" in row for row in rows(0.0))


def test_rows_of_a_stage_3_group_share_a_pool():
    rows = list(data.stage3_rows(World(4), 2 * data.GROUP))
    assert all(len(row["docs"]) == data.CANDIDATES for row in rows)
    for group in (rows[: data.GROUP], rows[data.GROUP :]):
        assert len(set(itertools.chain.from_iterable(row["docs"] for row in group))) <= data.POOL


def test_held_out_names_never_occur_in_training():
    held_out = names(list(data.stage3_rows(World(7, held_out=True), 64)))
    training = names(list(data.stage3_rows(World(7), 512)))
    assert held_out and training
    assert held_out.isdisjoint(training)


def test_two_held_out_seeds_share_almost_no_entity():
    first, second = ({entity.name for entity in World(seed, held_out=True).entities(500)} for seed in (1, 2))
    assert len(first & second) <= 15


@pytest.mark.slow
def test_documents_have_the_stated_length(tokenizer):
    world = World(8, held_out=True)
    texts = [world.document(entity) for entity in world.entities(500)]
    lengths = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    assert sum(lengths) / len(lengths) >= 64
    assert max(lengths) <= 88


def test_a_name_has_the_same_tokens_wherever_it_stands(tokenizer):
    world = World(9)
    for name in (world.word() for _ in range(100)):
        ids = tokenizer.encode(name, add_special_tokens=False)
        assert len(ids) <= 4
        assert tokenizer.encode(f"the {name}", add_special_tokens=False)[1:] == ids
        assert tokenizer.encode(f"<assistant>{name}</s>", add_special_tokens=False)[1:-1] == ids


@pytest.mark.parametrize("text", ["", " a", "h\u00e9llo \u2603 \n\t x", "\U0001f600", "1847 and 7"])
def test_any_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.slow
def test_the_tokenizer_is_the_same_every_time(tokenizer):
    assert tiny_tokenizer.build_tokenizer(documents=500).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("phase", base.PHASES, ids=lambda phase: phase.name)
def test_training_chats_follow_the_chat_template(tokenizer, phase):
    prompts = json.loads(tiny_tokenizer.PROMPTS.read_text())
    world = World(10)
    for progress in (0.0, 1.0):
        for _ in range(20):
            text = phase.draw(world, prompts, progress).text
            turns = re.findall(r"<(user|assistant)>(.*?)(?:</s>)?(?=<|$)", text, re.DOTALL)
            chat = [{"role": role, "content": content} for role, content in turns]
            assert tokenizer.apply_chat_template(chat, tokenize=False) == text


def test_the_chat_template_takes_a_system_message_and_a_generation_prompt(tokenizer):
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert (
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        == "<s><system>Be brief.<user>Who?<assistant>"
    )


def test_in_a_naming_chat_only_the_name_tells_facts_apart():
    world = World(11)
    for _ in range(50):
        entities = world.relatives(3, 2)
        assert len({entity.kind for entity in entities}) == 1 and len({entity.name for entity in entities}) == 3
        relations = {tuple(fact.relation.name for fact in entity.facts) for entity in entities}
        assert len(relations) == 1
        for entity in entities:
            fact = entity.facts[0]
            sentences = ["".join(world.named(entity, fact, wording)) for wording in fact.relation.sentences]
            assert all(entity.name.lower() in text.lower() and fact.value in text for text in sentences)


def test_every_relation_has_a_wording_that_names_its_subject_first():
    for relations in tiny_world.RELATIONS.values():
        for relation in relations:
            fact = tiny_world.Fact(relation=relation, value="Meru")
            wording = chats._naming(World(1).rng, fact)
            assert 0 <= wording.lower().find("{s") < wording.find("{v}")


def test_a_stopped_base_run_goes_on_where_it_stopped(tokenizer, tmp_path, monkeypatch):
    """Inside a phase and between two: the weights of one go. The second phase ends by its loss, after 2 steps of 9."""
    reading, naming = (replace(phase, steps=steps) for phase, steps in zip(base.PHASES[:2], (3, 9), strict=True))
    monkeypatch.setattr(base, "PHASES", [reading, replace(naming, until=1e9)])
    monkeypatch.setattr(base, "WINDOW", 2)
    monkeypatch.setattr(base, "build_tokenizer", lambda: tokenizer)
    sizes = {"hidden": 24, "layers": 1, "heads": 2, "inner": 32}
    config = base.BaseConfig(tokens=512, **sizes, compile=False)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    base.train(config, whole)
    save = base._save
    for stop in ((0, 2), (0, 3), (1, 1)):

        def save_and_stop(folder, model, optimizers, phase, step, losses, *, stop=stop):
            save(folder, model, optimizers, phase, step, losses)
            if (phase, step) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(base, "_save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            base.train(config, parts, save_every=1)
    monkeypatch.setattr(base, "_save", save)
    base.train(config, parts)
    ends = [torch.load(folder / "state.pt", weights_only=True) for folder in (whole, parts)]
    assert [end["step"] for end in ends] == [2, 2]
    one, other = (end["model"] for end in ends)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_batches_are_the_same_whoever_draws_them(tokenizer):
    """Also from the middle of a group on, as after a stop."""
    config = base.BaseConfig(tokens=512, share=40 / 5000)
    alone, helped = (list(base.batches(config, 0, tokenizer, 5, workers)) for workers in (0, 2))
    assert len(alone) == len(helped) == 48 - 5, "whole groups"
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    later = next(iter(base.batches(config, 0, tokenizer, 20)))
    assert all(torch.equal(*pair) for pair in zip(alone[15], later, strict=True))


def test_rows_whose_writing_was_stopped_are_not_taken_for_all(tmp_path):
    def stopped():
        yield {"question": "one"}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        data.write(tmp_path / "rows.jsonl", stopped())
    assert not (tmp_path / "rows.jsonl").exists()
    data.write(tmp_path / "rows.jsonl", [{"question": "one"}, {"question": "two"}])
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 2


def test_only_answers_weigh_in_full():
    chat = chats.Chat()
    chats._add_turns(chat, "{memory} {question}", "Kalo was born in Meru.", [("Where was Kalo born?", "Meru")])
    weights = chat.char_weights()
    assert chat.text == "<s><user>Kalo was born in Meru. Where was Kalo born?<assistant>Meru</s>"
    assert "".join(c for c, w in zip(chat.text, weights, strict=True) if w == chats.ANSWER) == "Meru</s>"
    assert "".join(c for c, w in zip(chat.text, weights, strict=True) if w < 0) == "Kalo was born in Meru."


def test_an_earlier_padded_call_does_not_reach_training_sequences(tokenizer):
    drawn = [chats.Chat(), chats.Chat()]
    chats._add_turns(drawn[0], "{memory} {question}", "Kalo was born in Meru.", [("Where was Kalo born?", "Meru")])
    chats._add_turns(drawn[1], "{memory} {question}", "Kalo died.", [("Who died?", "Kalo")])
    rng = np.random.default_rng(0)
    before = [ids.tolist() for ids, _ in base.encode(tokenizer, drawn, rng)]
    tokenizer([chat.text for chat in drawn], padding=True)
    assert [ids.tolist() for ids, _ in base.encode(tokenizer, drawn, rng)] == before
