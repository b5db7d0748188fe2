"""What the base model is trained on: chats as the tokenizer's template renders them, with a loss weight per character.

Reading comes first (`reading_chat`): the prompts of `prompts.json` with documents' text in place of `{memory}`, as a
conversation of several questions, a packed list of questions and answers, or a paraphrase. Telling things apart by
name comes second (`naming_chat`): a few things of one kind with the same relations, each told in a sentence or two, so
that nothing but the name says whose value is asked for. Last come full documents with both (`telling_apart_chat`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import numpy as np
from world import Entity, Fact, World

ANSWER, PARAPHRASE, ASKED, TOLD = 1.0, 0.15, 0.1, 0.1
"""Loss weights of tokens: an answer's, a paraphrase's, a packed question's, those of a document's sampled tokens."""
ALIKE = 0.6
"""Share of contexts with several documents in which all are about the same kind of thing."""
SAME_WORDING = 0.7
"""Chance that something is told again in the words it was told in: what is copied first is found by name later."""
NAMING = 0.3
"""Share of naming chats among the last phase's."""
AGAIN = 6
"""Values that are told again or asked for in a naming chat; each is drawn anew, so none is known by elimination."""


@dataclass
class Chat:
    """A chat rendered as the tokenizer's template renders it, with a loss weight per character."""

    parts: list[str] = field(default_factory=lambda: ["<s>"])
    weights: list[tuple[int, float]] = field(default_factory=lambda: [(3, 0.0)])

    def add(self, text: str, weight: float = 0.0) -> None:
        """Append raw text, every character with one weight."""
        self.parts.append(text)
        self.weights.append((len(text), weight))

    def user(self, content: str, document: str = "") -> None:
        """A user turn; the document in it is trained on lightly."""
        before, found, after = content.partition(document) if document else (content, "", "")
        self.add("<user>" + before)
        self.add(found, -1.0)
        self.add(after)

    @property
    def text(self) -> str:
        """The whole chat."""
        return "".join(self.parts)

    def char_weights(self) -> np.ndarray:
        """Loss weight of every character, -1 inside documents."""
        lengths, weights = zip(*self.weights, strict=True)
        return np.repeat(np.array(weights, dtype=np.float32), lengths)


def draw_documents(world: World, progress: float) -> list[Entity]:
    """Entities of one context: one until that is learned, then more and more often 2 to 5, which must be told apart.

    Args:
        world: where they come from.
        progress: of the run, 0 to 1.
    """
    rng = world.rng
    if rng.random() < 0.02 + 0.73 * min(1.0, max(0.0, progress - 0.3) / 0.2):
        return world.entities(rng.randint(2, 5), alike=rng.random() < ALIKE)
    short = rng.random() < 0.06
    return world.entities(1, facts=(1, 2)) if short else world.entities(1)


def asked(world: World, entities: list[Entity], count: int) -> list[tuple[str, str]]:
    """Questions about the entities, all different facts, in random order."""
    pairs = [pair for entity in entities for pair in world.questions(entity)]
    world.rng.shuffle(pairs)
    return pairs[:count]


def reading_chat(world: World, prompts: dict, progress: float) -> Chat:
    """Questions about documents in one of two forms, or a paraphrase; `progress` as for `draw_documents`."""
    rng, chat = world.rng, Chat()
    form = rng.random()
    if form < 0.1:
        (entity,) = world.entities(1)
        text = world.document(entity)
        chat.user(rng.choice(prompts["paraphrase"]["user"]).replace("{memory}", text), text)
        chat.add("<assistant>")
        chat.add(world.tell(entity) + "</s>", PARAPHRASE)
        return chat
    entities = draw_documents(world, progress)
    text = "\n ".join(world.document(entity) for entity in entities)
    pairs = asked(world, entities, 6 + 2 * len(entities))
    if form < 0.35:
        chat.user(prompts["question_answering"]["user"][0].replace("{memory}", text), text)
        _add_packed(chat, pairs)
    else:
        _add_turns(chat, prompts["answer"]["user"][0], text, pairs)
    return chat


def _add_packed(chat: Chat, pairs: list[tuple[str, str]]) -> None:
    chat.add("<assistant>")
    before = ""
    for question, answer in pairs:
        chat.add(f"{before}Question: {question}\nAnswer:", ASKED)
        chat.add(f" {answer}", ANSWER)
        before = "\n"
    chat.add("</s>", ANSWER)


def _add_turns(chat: Chat, template: str, text: str, pairs: list[tuple[str, str]]) -> None:
    for turn, (question, answer) in enumerate(pairs):
        if turn == 0:
            chat.user(template.replace("{question}", question).replace("{memory}", text), text)
        else:
            chat.user(question)
        chat.add("<assistant>")
        chat.add(answer + "</s>", ANSWER)


def naming_chat(world: World, prompts: dict, progress: float) -> Chat:
    """2 to 4 things of one kind with the same one or two relations, told, and told again or asked about.

    Every sentence names its subject in full before its value, so a value can be tied to its name where it stands.
    """
    rng, chat = world.rng, Chat()
    entities = world.relatives(rng.randint(2, 4), rng.randint(1, 2))
    told = [(entity, fact, _naming(rng, fact)) for entity in entities for fact in entity.facts]
    lines = [[world.named(entity, fact, wording) for e, fact, wording in told if e is entity] for entity in entities]
    text = "\n ".join(" ".join("".join(sentence) for sentence in line) for line in lines)
    chosen = [rng.choice(told) for _ in range(AGAIN)]
    if rng.random() < 0.5:
        _add_turns(
            chat, prompts["answer"]["user"][0], text, [(world.ask(e, fact), fact.value) for e, fact, _ in chosen]
        )
        return chat
    chat.user(prompts["paraphrase"]["user"][0].replace("{memory}", text), text)
    chat.add("<assistant>")
    for entity, fact, wording in chosen:
        again = wording if rng.random() < SAME_WORDING else _naming(rng, fact)
        before, value, after = world.named(entity, fact, again)
        chat.add(" " + before.rstrip(), ASKED)
        chat.add(" " + value, ANSWER)
        chat.add(after, ASKED)
    chat.add("</s>", ASKED)
    return chat


def _naming(rng: random.Random, fact: Fact) -> str:
    """A wording that names the subject before the value."""
    return rng.choice([w for w in fact.relation.sentences if w.lower().find("{s") < w.find("{v}")])


def telling_apart_chat(world: World, prompts: dict, progress: float) -> Chat:
    """Full documents, and some naming chats so that naming is not lost."""
    return (naming_chat if world.rng.random() < NAMING else reading_chat)(world, prompts, 1.0)
