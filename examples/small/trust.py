"""What can be trusted: words beside latents in the ranking, the best passage as text, confidence, a firm's notes.

Recall of clara-small's score with and without words, and of BM25 alone, on four sets of questions with 20 candidates;
NQ's questions answered from latents, from the best passage as text beside latents (``expand=1``), from text, and from
the best passage as text alone, also where the right one stands second or third; how well confidence tells all of NQ's
questions with a right passage among those read from the same without any, and how often something does answer where it
says so; and 20 questions about the notes of an invented firm (``company/``), 5 of which nothing there answers. Greedy;
the first questions of a seeded order. `measure.py` prints this too.

    python examples/small/trust.py [CHECKPOINT] [--data FOLDER] [--count 40] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from clara_model import Clara, ClaraModel
from clara_model.documents.passages import read_documents, split_documents
from clara_model.inference.quotes import quotes
from clara_model.inference.results import Answer
from clara_model.windows import Window
from trainers.data.rows import Row, read_rows
from trainers.evaluation.metrics import mean_scores, recall_at, score_answer

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "eval"
COMPANY = Path(__file__).resolve().parent / "company"
SETS = ("nq", "hotpotqa", "2wiki", "musique")
SEED, NEW_TOKENS, READ, SECOND, FIFTHS = 5, 14, 3, 20, 5
COUNT = 40
"""Questions of each set that are answered."""
RANKED = 282
"""Questions of each set that are ranked: all of NQ's."""
FORMS: dict[str, tuple[int, int]] = {"latents": (0, READ), "expand=1": (1, READ), "text": (READ, READ), "best": (1, 1)}
"""Of each form how many passages are text, and how many are read."""


@dataclass(frozen=True)
class Question:
    """A row with its candidates in the order of the hybrid ranking."""

    row: Row
    order: list[int]

    @property
    def place(self) -> int | None:
        """Where the first right candidate stands among those that are read, from 0; None if nowhere."""
        return next((i for i, index in enumerate(self.order[:READ]) if index in self.row.positives), None)


def drawn(file: Path, count: int) -> list[Row]:
    """The first rows of a file in a seeded order."""
    rows = list(read_rows([str(file)], prefer_gold=True))
    random.Random(SEED).shuffle(rows)
    return rows[:count]


def recalls(clara: Clara, rows: Sequence[Row]) -> tuple[dict[str, float], list[Question]]:
    """Recall@1 and @5 by latents, by words and by both, and each question's order by both."""
    found: dict[str, list[float]] = {}
    questions = []
    for row in rows:
        ranked = clara.rank(row.questions[0], row.documents)
        ways = {
            "latents": sorted(ranked, key=lambda one: (-(one.latents or 0.0), one.index)),
            "bm25": sorted(ranked, key=lambda one: (-(one.words or 0.0), one.index)),
            "hybrid": ranked,
        }
        for name, way in ways.items():
            order = [one.index for one in way]
            for k in (1, 5):
                found.setdefault(f"{name}@{k}", []).append(recall_at(order, row.positives, k))
        questions.append(Question(row, [one.index for one in ranked]))
    return {name: sum(values) / len(values) for name, values in found.items()}, questions


def answered(model: ClaraModel, questions: Sequence[Question], form: str, new_tokens: int = NEW_TOKENS) -> list[Answer]:
    """Answers from the best passages in one form."""
    expand, read = FORMS[form]
    texts = [[one.row.documents[index] for index in one.order] for one in questions]
    asked = [one.row.questions[0] for one in questions]
    with Clara(model, ranking="hybrid", expand=expand) as clara:
        return clara.answers(asked, texts, read, max_new_tokens=new_tokens)


def scored(questions: Sequence[Question], answers: Sequence[Answer]) -> dict[str, float]:
    """F1, exact match, tokens of the prompt, seconds of writing, and the share of answers with what stands nowhere."""
    pairs = zip(answers, questions, strict=True)
    scores = mean_scores([score_answer(one.text.strip(), question.row.references) for one, question in pairs])
    return {
        "f1": scores["f1"],
        "em": scores["em"],
        "prompt": sum(one.usage.prompt_tokens for one in answers) / len(answers),
        "seconds": sum(one.timings.generate for one in answers) / len(answers),
        "unsupported": sum(bool(one.unsupported) for one in answers) / len(answers),
        "numbers": sum(map(has_strange_number, answers)) / len(answers),
    }


def has_strange_number(answer: Answer) -> bool:
    """Whether it holds a number that stands nowhere in what was read."""
    return any(character.isdecimal() for text in answer.unsupported or () for character in text)


def without_gold(clara: Clara, questions: Sequence[Question]) -> list[Question]:
    """The same questions over their candidates without the right ones and those that hold an accepted answer."""
    found = []
    for one in questions:
        holding = {i for i, text in enumerate(one.row.documents) if holds(text, one.row.references)}
        kept = [i for i in range(len(one.row.documents)) if i not in holding and i not in one.row.positives]
        ranked = clara.rank(one.row.questions[0], [one.row.documents[i] for i in kept])
        found.append(Question(one.row, [kept[r.index] for r in ranked]))
    return found


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether an accepted answer stands in a text, letter case aside."""
    return any(answer.casefold() in text.casefold() for answer in answers)


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """How often one of the first numbers is larger than one of the second; half where they are equal."""
    return sum((a > b) + 0.5 * (a == b) for a in high for b in low) / (len(high) * len(low))


def reliability(yes: Sequence[float], no: Sequence[float]) -> Iterator[tuple[float, float, int]]:
    """For each fifth of the scale: the mean confidence, the share of questions that are answerable, how many they are.

    Args:
        yes: confidences of answerable questions.
        no: of the others.
    """
    both = [(value, True) for value in yes] + [(value, False) for value in no]
    for number in range(FIFTHS):
        some = [(value, there) for value, there in both if min(int(FIFTHS * value), FIFTHS - 1) == number]
        if some:
            yield sum(value for value, _ in some) / len(some), sum(there for _, there in some) / len(some), len(some)


def certainty(model: ClaraModel, asked: Sequence[Question], bare: Sequence[Question]) -> dict[str, float]:
    """How well confidence tells questions that are answered by what is read from others."""
    new_tokens = 1 if model.config.prompts.no_answer else NEW_TOKENS  # its first token says all
    there = [one for one in asked if one.place is not None]
    yes, no = (
        [one.confidence or 0.0 for one in answered(model, some, "expand=1", new_tokens)] for some in (there, bare)
    )
    found = {"confidence_auc": auc(yes, no), "confidence_questions": float(len(yes) + len(no))}
    least = model.config.prompts.certainty.refuse_below
    found |= {"refused_answerable": share_below(yes, least), "refused_bare": share_below(no, least)}
    for number, (confidence, share, count) in enumerate(reliability(yes, no)):
        found |= {f"bin{number}_confidence": confidence, f"bin{number}_answerable": share, f"bin{number}_count": count}
    return found


def share_below(confidences: Sequence[float], least: float) -> float:
    """The share of confidences below the least, where a trained generator says that nothing answers."""
    return sum(value < least for value in confidences) / len(confidences)


def company(model: ClaraModel) -> tuple[dict[str, float], list[str]]:
    """How many of the firm's 15 answerable questions are right in each form, and a line for each question."""
    lines = (COMPANY / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line) for line in lines]
    ways = {
        "before": Clara(model, ranking="latents", expand=0),
        "latents": Clara(model, ranking="hybrid", expand=0),
        "expand=1": Clara(model, ranking="hybrid", expand=1),
        "text": Clara(model, ranking="hybrid", expand=READ),
    }
    found: dict[str, float] = {}
    shown = [f"{one['question']}  [{(one['answers'] or ['(nothing)'])[0]}]" for one in asked]
    for name, clara in ways.items():
        texts = [
            one.text
            for one in split_documents(
                read_documents([str(COMPANY / "notes")]), clara.count_tokens, clara.doc_max_length
            )
        ]
        answers = clara.answers([one["question"] for one in asked], texts, READ, max_new_tokens=NEW_TOKENS)
        right = [is_right(answer, one["answers"]) for answer, one in zip(answers, asked, strict=True)]
        sure = [answer.confidence or 0.0 for answer in answers]
        found[f"firm_{name}_right"] = float(sum(right))
        found[f"firm_{name}_unsupported"] = float(sum(bool(answer.unsupported) for answer in answers))
        yes = [value for value, one in zip(sure, asked, strict=True) if one["answers"]]
        no = [value for value, one in zip(sure, asked, strict=True) if not one["answers"]]
        found[f"firm_{name}_confidence_auc"] = auc(yes, no)
        for place, answer in enumerate(answers):
            shown[place] += (
                f"\n   {name:>8} {'right' if right[place] else '     '} {answer.confidence:.2f} {answer.text}"
            )
    return found, shown


def is_right(answer: Answer, accepted: Sequence[str]) -> bool:
    """Whether it is an accepted answer, or one with words around it, or says that there is none; 238 is not 2.38."""
    if not accepted:
        return not answer.found(0.0)
    whole = [quotes(one, [(Window(), answer.text)]) for one in accepted]
    return any(
        (found[0].start, found[0].end) == (0, len(one)) for found, one in zip(whole, accepted, strict=True) if found
    )


def figures(model: ClaraModel, data: Path, count: int) -> tuple[dict[str, float], list[str]]:
    """All figures, and the firm's questions with their answers."""
    found: dict[str, float] = {}
    nq: list[Question] = []
    bare: list[Question] = []
    with Clara(model, ranking="hybrid") as clara:
        for name in SETS:
            rows = drawn(data / f"{name}.jsonl", RANKED)
            recall, questions = recalls(clara, rows)
            found |= {f"{name}_{way}": value for way, value in recall.items()}
            nq = nq or questions
        read, second = nq[:count], [one for one in nq[count:] if one.place in (1, 2)][:SECOND]
        bare = without_gold(clara, nq)
    asked = [*read, *second]
    parts = {
        "nq": range(len(read)),
        "first": [number for number, one in enumerate(read) if one.place == 0],
        "second": [number for number, one in enumerate(asked) if one.place in (1, 2)],
    }
    for form in FORMS:
        answers = answered(model, asked, form)
        for part, numbers in parts.items():
            some = scored([asked[i] for i in numbers], [answers[i] for i in numbers])
            found |= {f"{part}_{form}_{name}": value for name, value in some.items()}
            found[f"{part}_questions"] = float(len(numbers))
        print(f"# {form}: F1 {found[f'nq_{form}_f1']:.3f}", file=sys.stderr, flush=True)
    firm, shown = company(model)
    return found | certainty(model, nq, bare) | firm, shown


def bars(found: Mapping[str, float]) -> Iterator[tuple[str, float, str, bool]]:
    """Each bar: what, how much it is, what it should be, whether it is met."""

    def least(name: str, value: float, bar: float) -> tuple[str, float, str, bool]:
        return name, value, f">= {bar:.3f}", value >= bar

    def most(name: str, value: float, bar: float) -> tuple[str, float, str, bool]:
        return name, value, f"<= {bar:.3f}", value <= bar

    yield least("nq hybrid recall@1", found["nq_hybrid@1"], 0.80)
    yield least("nq hybrid recall@5", found["nq_hybrid@5"], 0.95)
    for name in SETS:
        value, words = found[f"{name}_hybrid@5"], found[f"{name}_bm25@5"]
        yield f"{name} hybrid recall@5 above BM25's", value, f"> {words:.3f}", value > words
    mixed, text = (
        {name: found[f"nq_{form}_{name}"] for name in ("f1", "prompt", "seconds")} for form in ("expand=1", "text")
    )
    yield least("F1 with expand=1, of that of all as text", mixed["f1"] / text["f1"], 0.97)
    yield most("prompt with expand=1, of that of all as text", mixed["prompt"] / text["prompt"], 0.65)
    yield most("seconds with expand=1, of those of all as text", mixed["seconds"] / text["seconds"], 0.7)
    yield least("F1 with expand=1, right passage second or third", found["second_expand=1_f1"], 0.28)
    yield least(
        "F1 with expand=1 where the first is right, best alone", found["first_expand=1_f1"], found["first_best_f1"]
    )
    yield least("confidence, AUC of answerable against not", found["confidence_auc"], 0.85)
    yield most("answerable questions refused", found["refused_answerable"], 0.10)
    yield most("answers with a number that stands nowhere", found["nq_expand=1_numbers"], 0.01)
    yield least("the firm's questions right, of 20", found["firm_expand=1_right"], 15.0)


def show(found: Mapping[str, float]) -> list[Table]:
    """The figures, and the bars."""
    ranking = Table("recall@1, @5", *SETS, box=None)
    for way in ("latents", "bm25", "hybrid"):
        ranking.add_row(way, *(f"{found[f'{name}_{way}@1']:.3f}, {found[f'{name}_{way}@5']:.3f}" for name in SETS))
    reading = Table("read", "F1", "EM", "prompt", "seconds", "first right: F1", "second or third: F1", box=None)
    for form in FORMS:
        values = [found[f"nq_{form}_{name}"] for name in ("f1", "em")]
        cost = f"{found[f'nq_{form}_prompt']:.0f}", f"{found[f'nq_{form}_seconds']:.2f}"
        places = [found[f"{part}_{form}_f1"] for part in ("first", "second")]
        reading.add_row(form, *(f"{v:.3f}" for v in values), *cost, *(f"{v:.3f}" for v in places))
    sure = Table("confidence", "questions", "of them answerable", box=None)
    for number in range(FIFTHS):
        if f"bin{number}_count" in found:
            values = [found[f"bin{number}_{name}"] for name in ("confidence", "count", "answerable")]
            sure.add_row(f"{values[0]:.2f}", f"{values[1]:.0f}", f"{values[2]:.2f}")
    firm = Table("the firm", "right of 20", "with what stands nowhere, of 20", "AUC of confidence", box=None)
    for form in ("before", "latents", "expand=1", "text"):
        right, nowhere, area = (found[f"firm_{form}_{name}"] for name in ("right", "unsupported", "confidence_auc"))
        firm.add_row(form, f"{right:.0f}", f"{nowhere:.0f}", f"{area:.2f}")
    met = Table("bar", "measured", "asked", "met", box=None)
    for name, value, bar, reached in bars(found):
        met.add_row(name, f"{value:.3f}", bar, "yes" if reached else "NO")
    return [ranking, reading, sure, firm, met]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", default="clara-small")
    parser.add_argument("--data", type=Path, default=SHARED, help="folder with nq.jsonl and the others")
    parser.add_argument("--count", type=int, default=COUNT, help="questions of each set; all are ranked")
    parser.add_argument("--dtype", help="number format (default: the fastest of this machine)")
    parser.add_argument("--out", type=Path, help="write the figures there as JSON")
    args = parser.parse_args()
    model = ClaraModel.from_pretrained(args.checkpoint, dtype=args.dtype, device="cpu")
    found, shown = figures(model, args.data, args.count)
    console = Console(width=160, highlight=False)
    for line in shown:
        console.print(line, markup=False)
    for table in show(found):
        console.print()
        console.print(table)
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
