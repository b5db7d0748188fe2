"""What the latents of a text keep of it: the text told again from its latents, compared word by word and by names.

ROUGE-1 and ROUGE-L are rouge-score's F measures with stemming; names are the entities that a spaCy model finds: one
that is named, else ``en_core_web_sm`` where that is installed. The system ``text`` has the base model tell the text
itself again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from clara_model.errors import ClaraError, needing
from clara_model.inference.pipeline import Written
from clara_model.validation import Generation
from trainers.evaluation.answerers import Budget
from trainers.evaluation.measuring import Meter
from trainers.evaluation.questions import Question
from trainers.evaluation.records import Record
from trainers.evaluation.runner import SHOWN, Answering

if TYPE_CHECKING:
    from clara_model.inference.clara import Clara

SYSTEMS = ("clara", "text")
SPACY_MODEL = "en_core_web_sm"
Score = Callable[[str, Sequence[str]], dict[str, float]]
"""Of a text against what it should say."""
Names = Callable[[str], set[str]]
"""The names in a text, in lower case."""


def texts_of(questions: Sequence[Question]) -> list[Question]:
    """The distinct passages of some questions, each to be told again; a paraphrase row keeps its own reference."""
    found: dict[str, Question] = {}
    for question in questions:
        for place, passage in enumerate(question.pool.passages):
            references = question.references if not question.text else (passage,)
            source = f"{question.source}, passage {place + 1}"
            if passage.strip() and passage not in found:
                found[passage] = replace(
                    question, number=len(found), text=passage, references=references, positives=(), source=source
                )
    return list(found.values())


def answering(name: str, clara: Clara, budget: Budget, spacy_model: str | None = None) -> Answering:
    """How a system tells texts again. Raises `ClaraError`: another system, or a package or model is missing."""
    if name not in SYSTEMS:
        raise ClaraError(f"the stage paraphrase compares {' and '.join(SYSTEMS)}, got {name!r}")
    score = scorer(spacy_model)
    write = _from_latents if name == "clara" else _from_text

    def answer(questions: Sequence[Question], meter: Meter) -> list[Record]:
        written = write(clara, budget, [question.text for question in questions], meter)
        return [_record(clara, score, *one, meter, len(questions)) for one in zip(questions, written, strict=True)]

    return answer


def _record(clara: Clara, score: Score, question: Question, one: Written, meter: Meter, count: int) -> Record:
    text = one.text.strip()
    return Record(
        number=question.number,
        question="",
        references=list(question.references),
        answer=text,
        scores=score(text, question.references),
        shown=[question.text[:SHOWN]],
        cluster=question.cluster,
        source=question.source,
        seconds=meter.share(count),
        peak_bytes=meter.peaks,
        prompt_tokens=one.prompt_tokens,
        text_tokens=clara.count_tokens(question.text),
        completion_tokens=one.completion_tokens,
        finish_reason=one.finish_reason,
    )


def scorer(spacy_model: str | None = None) -> Score:
    """Scores against what a text should say, the best over several; a `ClaraError` if a package or model is missing."""
    with needing("the stage paraphrase", "rouge-score", "eval"):
        from rouge_score.rouge_scorer import RougeScorer
    rouge, entities = RougeScorer(["rouge1", "rougeL"], use_stemmer=True), names_of(spacy_model)

    def score(said: str, references: Sequence[str]) -> dict[str, float]:
        found = [rouge.score(reference, said) for reference in references]
        scores = {name: max(one[name].fmeasure for one in found) for name in ("rouge1", "rougeL")}
        if entities is not None:
            wanted, found_names = [names for one in references if (names := entities(one))], entities(said)
            kept = [len(names & found_names) / len(names) for names in wanted]  # of those that hold any
            scores |= {"entities": max(kept)} if kept else {}
        return scores

    return score


def _from_latents(clara: Clara, budget: Budget, texts: Sequence[str], meter: Meter) -> list[Written]:
    call, model = clara.call(), clara.model
    with meter.phase("compress"):
        found = call.candidates([list(texts)])[0]
    ids = model.tokens.prompt_ids(model.config.prompts.paraphrase, 1)
    with meter.phase("generate"):
        return call.write([ids] * len(texts), [found.pick([place]) for place in range(len(texts))], _how(budget))


def _from_text(clara: Clara, budget: Budget, texts: Sequence[str], meter: Meter) -> list[Written]:
    tokens, prompt = clara.model.tokens, clara.model.config.prompts.paraphrase
    with meter.phase("generate"):
        return clara.call().write([tokens.text_prompt_ids(prompt, text) for text in texts], None, _how(budget))


def _how(budget: Budget) -> Generation:
    return Generation(max_new_tokens=budget.max_new_tokens)


def names_of(spacy_model: str | None = None) -> Names | None:
    """What finds the names in a text: an installed spaCy model or a folder of one; `SPACY_MODEL` if that is installed.

    Raises `ClaraError`: the model that is named cannot be loaded, or finds no names.
    """
    if spacy_model is None and (find_spec("spacy") is None or find_spec(SPACY_MODEL) is None):
        return None
    name = spacy_model or SPACY_MODEL
    try:
        with needing("finding names", "spacy"):
            found: Any = import_module("spacy").load(name)
    except (OSError, ValueError) as error:
        first = " ".join(str(error).split()).partition(". ")[0]
        said = f"the spaCy model {name!r} cannot be loaded ({first})"
        raise ClaraError(f"{said}; name an installed one or a folder") from error
    if not {"ner", "entity_ruler", "span_ruler"} & set(found.pipe_names):
        parts = ", ".join(found.pipe_names) or "nothing"
        raise ClaraError(f"the spaCy model {name!r} finds no names; it holds {parts}")
    return lambda text: {one.text.lower().strip() for one in found(text).ents}
