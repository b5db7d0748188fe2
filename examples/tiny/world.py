"""A seeded world of invented people, places and works, told in short documents.

An `Entity` is a name and 1 to 6 facts. A fact is a relation and a value; every relation has several wordings as a
sentence and several as a question, so one entity can be told in many ways (`World.tell`): a paraphrase is the same
facts in other wordings and another order. Names are built from syllables, years are drawn from nine centuries, a
minority of the values comes from closed lists (trades, materials). One word in eight of all that the syllables can form
is reserved: a `World` built with `held_out=True` uses reserved words only, every other world never does, so that no
name of a held-out document, asked for or answered with, occurs anywhere in training.

Not covered: arithmetic, several documents per question, questions without an answer.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

ONSETS = "bdfghjklmprtvwyz"
VOWELS = "aeiou"
RESERVED_ONE_IN = 8
"""One word in this many is kept for held-out worlds."""

SHARE = 0.2
"""Chance that a name of a new entity is one that an earlier entity has (same surname, same town, ...)."""

NAMED = 0.75
"""Chance that a later sentence names its subject again; otherwise it says she, he or it."""
LENGTHS = (62, 84)
"""Bounds on the estimated number of tokens of a full document."""

TRADES = tuple(
    "painter baker weaver sailor doctor poet mason tailor smith singer hunter farmer lawyer dancer potter judge "
    "teacher miner soldier banker gardener butcher jeweller cook".split()
)
GOODS = tuple(
    "salt wool silk wine glass paper honey copper timber cheese spices tea pearls leather cotton marble".split()
)
MATERIALS = tuple("oak stone bronze brass iron clay pine gold silver steel granite bamboo".split())
INSTRUMENTS = tuple("flute harp drum lute horn violin piano trumpet cello bagpipe".split())
WORK_KINDS = tuple("ship bridge tower statue clock organ bell mill".split())


@dataclass(frozen=True, kw_only=True)
class Relation:
    """One kind of fact: its value's kind, its wordings as a sentence and as a question.

    In a sentence `{S}` and `{s}` stand for the subject (with and without a capital), `{p}` for her/his/its, `{v}` for
    the value.
    In a question `{e}` stands for the entity's name.
    """

    name: str
    value: str
    sentences: tuple[str, ...]
    questions: tuple[str, ...]


def _relation(name: str, value: str, sentences: str, questions: str) -> Relation:
    """Build a relation from wordings written one per line."""
    split = [tuple(line.strip() for line in block.strip().splitlines()) for block in (sentences, questions)]
    return Relation(name=name, value=value, sentences=split[0], questions=split[1])


PERSON = (
    _relation(
        "trade",
        "trade",
        """{S} was known far and wide as a very good {v}.
        {S} made a living as a {v} for many years.
        By trade {s} was a {v}, and liked the work.
        As a young person {s} chose to become a {v}.""",
        """What was the trade of {e}?
        What did {e} do for a living?
        As what did {e} work?""",
    ),
    _relation(
        "birthplace",
        "place",
        """{S} was born in a small house in {v}.
        {S} came into the world in the town of {v}.
        It was in {v} that {s} was born.
        The place where {s} was born is called {v}.""",
        """Where was {e} born?
        In which place was {e} born?
        What is the birthplace of {e}?""",
    ),
    _relation(
        "birthyear",
        "year",
        """{S} was born in the cold winter of {v}.
        The year in which {s} was born is {v}.
        {S} came into the world in the year {v}.
        We know that {v} is the year when {s} was born.""",
        """When was {e} born?
        In which year was {e} born?
        What is the birth year of {e}?""",
    ),
    _relation(
        "teacher",
        "person",
        """{S} learned everything from an old master called {v}.
        The one who taught {s_obj} was a certain {v}.
        For six years {s} was a pupil of the famous {v}.
        {S} always said that {v} was {p} only teacher.""",
        """Who taught {e}?
        Who was the teacher of {e}?
        From whom did {e} learn?""",
    ),
    _relation(
        "spouse",
        "person",
        """{S} was married to {v}, a friend from school.
        Later {s} married {v}, and they were happy together.
        The name of the one {s} married is {v}.
        After a long wait {s} and {v} were married.""",
        """Who was married to {e}?
        Whom did {e} marry?
        What was the name of the spouse of {e}?""",
    ),
    _relation(
        "home",
        "place",
        """{S} moved to {v} and lived there to the end.
        For most of {p} life {s} lived in {v}.
        The home that {s} loved was a farm near {v}.
        In later years {s} had a house in {v}.""",
        """Where did {e} live?
        In which place did {e} live?
        What place was the home of {e}?""",
    ),
    _relation(
        "deathyear",
        "year",
        """{S} died in the warm summer of {v}.
        The year in which {s} died is {v}.
        After a long life {s} died in {v}.
        It was in {v} that {s} died at home.""",
        """When did {e} die?
        In which year did {e} die?
        What is the year of death of {e}?""",
    ),
    _relation(
        "instrument",
        "instrument",
        """In the evening {s} liked to play the {v}.
        {S} could play the {v} better than all others.
        With some friends {s} often played the {v}.""",
        """What instrument did {e} play?
        Which instrument could {e} play?
        What did {e} play in the evening?""",
    ),
)

PLACE = (
    _relation(
        "founded",
        "year",
        """{S} was founded by settlers in the year {v}.
        The first stone of {s} was laid in {v}.
        People first came to live at {s} in {v}.
        We know that {v} is the year when {s} was founded.""",
        """When was {e} founded?
        In which year was {e} founded?
        What is the year in which {e} was founded?""",
    ),
    _relation(
        "founder",
        "person",
        """The person who founded {s} was called {v}.
        {S} was founded by a rich lord named {v}.
        It was {v} who laid the first stone of {s}.
        {S} still honours {v}, who founded it long ago.""",
        """Who founded {e}?
        Who was the founder of {e}?
        By whom was {e} founded?""",
    ),
    _relation(
        "river",
        "place",
        """{S} lies on the banks of the river {v}.
        The river that runs past {s} is the {v}.
        From the hills the river {v} flows down to {s}.
        The water of {s} comes from the river {v}.""",
        """Which river runs past {e}?
        On which river does {e} lie?
        What is the river of {e}?""",
    ),
    _relation(
        "mayor",
        "person",
        """The mayor of {s} for many years was {v}.
        {S} was ruled by a mayor with the name {v}.
        People in {s} chose {v} as their mayor.
        It was {v} who was the last mayor of {s}.""",
        """Who was the mayor of {e}?
        By whom was {e} ruled?
        Whom did {e} have as mayor?""",
    ),
    _relation(
        "goods",
        "goods",
        """{S} is known far and wide for its {v}.
        Traders come to {s} from all sides to buy {v}.
        Most people in {s} live by making and selling {v}.
        What is sold most in {s} is the fine {v}.""",
        """What is {e} known for?
        What do traders buy in {e}?
        What is sold most in {e}?""",
    ),
    _relation(
        "neighbour",
        "place",
        """The next town after {s} on the road is {v}.
        {S} lies one day on foot from {v}.
        An old road leads from {s} over the hills to {v}.
        The people of {s} often visit the market in {v}.""",
        """Which town is next to {e}?
        What is the next town after {e}?
        To which town does the road from {e} lead?""",
    ),
)

WORK = (
    _relation(
        "maker",
        "person",
        """{S} was made by the hands of one {v}.
        The one who made {s} was a certain {v}.
        It took {v} nine years of work to make {s}.
        {S} is the best known work of {v}.""",
        """Who made {e}?
        Who was the maker of {e}?
        By whom was {e} made?""",
    ),
    _relation(
        "finished",
        "year",
        """{S} was finished in the spring of {v}.
        The work on {s} came to an end in {v}.
        In {v} people could see {s} for the first time.
        We know that {v} is the year when {s} was finished.""",
        """When was {e} finished?
        In which year was {e} finished?
        In what year did the work on {e} end?""",
    ),
    _relation(
        "site",
        "place",
        """{S} can still be seen today in {v}.
        The town that is proud of {s} is {v}.
        Whoever wants to see {s} has to go to {v}.
        It is in {v} that {s} can be found.""",
        """Where can {e} be seen?
        In which town is {e}?
        Where is {e} to be found?""",
    ),
    _relation(
        "material",
        "material",
        """{S} is made for the most part of {v}.
        The best {v} was used to make {s}.
        Nothing but good {v} was used for {s}.
        For {s} a great deal of {v} was bought.""",
        """What is {e} made of?
        Which material was used for {e}?
        Of what is {e} made?""",
    ),
    _relation(
        "owner",
        "person",
        """{S} now belongs to a rich trader called {v}.
        The one who owns {s} today is {v}.
        Some years ago {v} bought {s} for much money.
        After a long trial {s} was given to {v}.""",
        """Who owns {e}?
        Who is the owner of {e}?
        To whom does {e} belong?""",
    ),
    _relation(
        "patron",
        "person",
        """{S} was paid for by a noble called {v}.
        The money for {s} was given by {v}.
        It was {v} who gave the order to make {s}.
        Without the money of {v} there would be no trace of {s}.""",
        """Who paid for {e}?
        Who gave the money for {e}?
        By whom was {e} paid for?""",
    ),
)

RELATIONS = {"person": PERSON, "place": PLACE, "work": WORK}
FILLERS = (
    "Not much else is known about those years.",
    "There are many other stories about this.",
    "Old books still tell of it.",
    "So the people there like to say.",
    "All of this was written down much later.",
)
CLOSED = {"trade": TRADES, "goods": GOODS, "material": MATERIALS, "instrument": INSTRUMENTS}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A relation and its value."""

    relation: Relation
    value: str


@dataclass(frozen=True, kw_only=True)
class Entity:
    """Something with a name and facts. `short` and `pronoun` are how later sentences call it."""

    kind: str
    name: str
    short: str
    pronoun: tuple[str, str, str]
    facts: tuple[Fact, ...]


def is_reserved(word: str) -> bool:
    """Whether a name's word is kept for held-out worlds."""
    return zlib.crc32(word.encode()) % RESERVED_ONE_IN == 0


def _known_words() -> frozenset[str]:
    text = [wording for relations in RELATIONS.values() for r in relations for wording in r.sentences + r.questions]
    words = " ".join(
        [*text, *FILLERS, *WORK_KINDS, *(v for values in CLOSED.values() for v in values), "she he her his it its him"]
    )
    return frozenset(re.findall(r"[a-z]+", re.sub(r"{\w+}", " ", words).lower()))


KNOWN_WORDS = _known_words()


def estimate_tokens(text: str) -> int:
    """About how many tokens our tokenizer makes of a text: known words and marks 1, years 2, names one per syllable."""
    count = 0
    for piece in re.findall(r"[A-Za-z]+|\d+|[^\w\s]", text):
        if piece.isdigit():
            count += 2
        elif piece.isalpha() and piece.lower() not in KNOWN_WORDS:
            count += len(re.findall(r"[aeiou]", piece))
        else:
            count += 1
    return count


class World:
    """A source of entities, documents and questions; the same seed gives the same sequence.

    Args:
        seed: Seed of everything this world says.
        held_out: Use reserved words for all names, and only for these.
    """

    def __init__(self, seed: int, *, held_out: bool = False) -> None:
        self.rng = random.Random(f"tiny-world-{seed}-{held_out}")
        self.held_out = held_out

    def word(self) -> str:
        """A new name of 2 syllables, sometimes 3."""
        while True:
            middle = "" if self.rng.random() < 0.8 else self._syllable("")
            word = (self._syllable("n") + middle + self._syllable("ns")).capitalize()
            if is_reserved(word) == self.held_out and word.lower() not in KNOWN_WORDS:
                return word

    def _syllable(self, codas: str) -> str:
        rng = self.rng
        coda = rng.choice(["", *codas])
        return rng.choice(ONSETS) + rng.choice(VOWELS) + coda

    def entities(self, count: int, *, facts: Sequence[int] = (4, 4, 5, 5, 5, 6), alike: bool = False) -> list[Entity]:
        """Entities with different names that sometimes share a surname, a town or another value.

        Args:
            count: How many.
            facts: The numbers of facts to draw from.
            alike: All people, all places or all works, so that only their names tell them apart.
        """
        kind = self._kind() if alike else None
        seen: dict[str, list[str]] = {}
        found: list[Entity] = []
        names: set[str] = set()
        while len(found) < count:
            entity = self._entity(kind or self._kind(), seen, self.rng.choice(facts))
            if entity.name not in names:
                names.add(entity.name)
                found.append(entity)
        return found

    def relatives(self, count: int, facts: int) -> list[Entity]:
        """Entities of one kind with the same relations, so that only their names tell their facts apart."""
        found = self.entities(count, facts=(1,), alike=True)
        relations, seen = self.rng.sample(RELATIONS[found[0].kind], facts), {}
        return [replace(entity, facts=self._facts(relations, set(entity.name.split()), seen)) for entity in found]

    def _kind(self) -> str:
        return self.rng.choices(("person", "place", "work"), (2, 1, 1))[0]

    def _entity(self, kind: str, seen: dict[str, list[str]], facts: int) -> Entity:
        name, short, pronoun = self._name(kind, seen)
        chosen = self._facts(self.rng.sample(RELATIONS[kind], facts), set(name.split()), seen)
        return Entity(kind=kind, name=name, short=short, pronoun=pronoun, facts=chosen)

    def _facts(self, relations: Sequence[Relation], taken: set[str], seen: dict[str, list[str]]) -> tuple[Fact, ...]:
        """A value for each relation, none of which is taken by the name or by another relation."""
        chosen = []
        for relation in relations:
            value = self._value(relation.value, seen)
            while value in taken:
                value = self._value(relation.value, seen)
            taken.add(value)
            chosen.append(Fact(relation=relation, value=value))
        return tuple(chosen)

    def _name(self, kind: str, seen: dict[str, list[str]]) -> tuple[str, str, tuple[str, str, str]]:
        if kind == "person":
            first, last = self._shared("first", seen), self._shared("last", seen)
            pronoun = self.rng.choice((("she", "her", "her"), ("he", "him", "his")))
            return f"{first} {last}", self.rng.choice((first, last)), pronoun
        if kind == "place":
            name = self.word()
            return name, name, ("it", "it", "its")
        name, work = self.word(), self.rng.choice(WORK_KINDS)
        return f"the {work} {name}", name, ("it", "it", "its")

    def _value(self, kind: str, seen: dict[str, list[str]]) -> str:
        if kind in CLOSED:
            return self.rng.choice(CLOSED[kind])
        if kind == "year":
            return str(self.rng.randint(1100, 1999))
        return self._shared(kind, seen)

    def _shared(self, role: str, seen: dict[str, list[str]]) -> str:
        """A new word, or with chance `SHARE` one that this role had in an earlier entity."""
        earlier = seen.setdefault(role, [])
        if earlier and self.rng.random() < SHARE:
            return self.rng.choice(earlier)
        earlier.append(self.word())
        return earlier[-1]

    def document(self, entity: Entity) -> str:
        """A full document: all facts, 62 to 84 estimated tokens (fewer for an entity with fewer than 4 facts)."""
        low, high = LENGTHS if len(entity.facts) >= 4 else (0, LENGTHS[1])
        while True:
            sentences = self._sentences(entity)
            while estimate_tokens(" ".join(sentences)) < low:
                sentences.insert(self.rng.randint(1, len(sentences)), self.rng.choice(FILLERS))
            text = " ".join(sentences)
            if estimate_tokens(text) <= high:
                return text

    def tell(self, entity: Entity) -> str:
        """All facts of an entity in some order and some wordings, nothing else."""
        return " ".join(self._sentences(entity))

    def _sentences(self, entity: Entity) -> list[str]:
        order = self.rng.sample(entity.facts, len(entity.facts))
        return [self._sentence(entity, fact, opening=i == 0) for i, fact in enumerate(order)]

    def _sentence(self, entity: Entity, fact: Fact, *, opening: bool) -> str:
        if opening:
            subject = object_ = entity.name
        elif self.rng.random() < NAMED:
            subject = object_ = entity.short
        else:
            subject, object_ = entity.pronoun[:2]
        wording = self.rng.choice(fact.relation.sentences)
        capital = subject[0].upper() + subject[1:]
        return wording.format(S=capital, s=subject, s_obj=object_, p=entity.pronoun[2], v=fact.value)

    def named(self, entity: Entity, fact: Fact, wording: str) -> tuple[str, str, str]:
        """A sentence that names its subject in full, in three parts: before the value, the value, after it."""
        name = entity.name
        capital, possessive = name[0].upper() + name[1:], entity.pronoun[2]
        before, after = (part.format(S=capital, s=name, s_obj=name, p=possessive) for part in wording.split("{v}"))
        return before, fact.value, after

    def ask(self, entity: Entity, fact: Fact) -> str:
        """One of the wordings of the question for a fact; it names the entity."""
        return self.rng.choice(fact.relation.questions).format(e=entity.name)

    def questions(self, entity: Entity, count: int | None = None) -> list[tuple[str, str]]:
        """Questions and answers about different facts of an entity, in random order; all of them by default."""
        facts = self.rng.sample(entity.facts, min(count or len(entity.facts), len(entity.facts)))
        return [(self.ask(entity, fact), fact.value) for fact in facts]
