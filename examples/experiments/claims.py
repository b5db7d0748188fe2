"""The paper's claims at the size that runs here: every claim's runs, a table and a picture of each, and a word on it.

    python examples/experiments/claims.py FOLDER --untrained            # the bundled models, some minutes on one core
    python examples/experiments/claims.py FOLDER --share 0.25           # all: a day on two cores at full length (1.0)
    python examples/experiments/claims.py FOLDER --page                 # what is measured goes into the page

Claims that need training go from clara-tiny's base through stages 1 to 3 on the invented world (`data.py`), for every
seed anew; the others ask the bundled models, and a seed is one of their questions. A claim *holds* where it is so with
every seed, *does not* where it is so with none, and cannot be told otherwise. Every run and figure is kept in the
folder; a run that was stopped goes on when the command is given again. Another base (a folder of `base.py`) is
``--base``.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny"))
from again import BUNDLED
from data import stage1_rows, stage2_rows, stage3_rows, write
from measure import held_out
from world import World

from clara_model import ClaraModel
from clara_model.checkpoint.options import LoadOptions
from trainers.data.negatives import BM25Search
from trainers.data.row import Row
from trainers.data.rows import read_rows
from trainers.evaluation.in_training import EvaluationConfig, evaluate
from trainers.evaluation.metrics import recall_at
from trainers.training.checkpointing import step_of, whole_checkpoints
from trainers.training.run import train
from trainers.training.stages import at_rate
from trainers.training.train_config import TrainConfig, read_yaml

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "examples" / "tiny"
PAGE = ROOT / "docs" / "experiments" / "claims.md"
DATA = PAGE.with_suffix("") / "figures.json"
NQ = ROOT.parent / "shared" / "data" / "eval" / "nq.jsonl"
SEEDS, READ, CPU = (1, 2, 3), 5, LoadOptions(dtype=torch.float32, device="cpu")
STEPS = {"stage1": 2400, "stage2": 480, "stage3": 400}
ROWS = {"stage1": (stage1_rows, 32), "stage2": (stage2_rows, 96), "stage3": (stage3_rows, 96)}
"""What draws a stage's rows, and how many are a step."""
LABELS = {"ranking_loss": "labels", "ranking_warmup": 20, "ranking_weight": 0.3}
LIKELIHOOD = {**LABELS, "ranking_loss": "likelihood"}
HOLDS, NOT, UNTOLD, MISSING = "holds", "does not", "cannot be told here", "not yet run"
Figures = dict[str, dict[str, dict[str, float]]]
"""Of each claim, seed and point."""


@dataclass
class Work:
    """Where runs and figures are kept, and how long a run is."""

    folder: Path
    share: float = 1.0
    count: int = 120
    """Held-out questions of a seed."""
    base: Path | None = None

    def rows(self, seed: int, candidates: int = 20) -> list[Row]:
        """Held-out questions with their gold document among so many candidates."""
        return [_first(row, candidates) for row in held_out(self.count, 20_400 + seed)]

    def run(self, name: str, stage: str, seed: int, begin: Path | None, data: Path | None = None, **more: Any) -> Path:
        """A stage's checkpoint, trained as far as it is not."""
        target, steps = self.folder / f"{name}-{seed}", max(1, round(self.share * STEPS[stage]))
        every = max(1, steps // 5)
        fresh = {"pretrain": str(self.base or BUNDLED / "base"), "prompts": str(TINY / "prompts.json")}
        settings = read_yaml(TINY / f"{stage}.yaml") | {
            **(fresh if begin is None else {"pretrain_checkpoint": str(begin)}),
            **{"dataset": str(data or self.data(stage, seed)), "save_path": str(target), "seed": seed},
            **{"max_steps": steps, "save_steps": every, "logging_steps": every, "max_ckpt_num": 10},
            **{"use_cpu": True, "load_checkpoint": True, **more},
        }
        return target if (target / "config.json").is_file() else train(TrainConfig.for_stage(**settings))

    def data(self, stage: str, seed: int, keep: Callable[[dict], bool] | None = None, name: str = "") -> Path:
        """A stage's rows, of which some may be kept alone."""
        draw, batch = ROWS[stage]
        path = self.folder / f"{stage}{name}-{seed}.jsonl"
        if not path.is_file():
            self.folder.mkdir(parents=True, exist_ok=True)
            count = batch * max(1, round(self.share * STEPS[stage]))
            found = draw(World(1_000 * seed + int(stage[-1])), count if keep is None else 8 * count)
            write(path, islice(filter(keep, found), count))
        return path

    def first_stages(self, seed: int) -> Path:
        """Stages 1 and 2 as the recipe has them."""
        return self.run("stage2", "stage2", seed, self.run("stage1", "stage1", seed, None))


def _first(row: Row, candidates: int) -> Row:
    """The same with the first of its candidates, the gold one among them."""
    (gold,) = row.positives
    others = [place for place in range(len(row.documents)) if place != gold][: candidates - 1]
    kept = sorted([gold, *others])
    return replace(row, documents=tuple(row.documents[place] for place in kept), positives=(kept.index(gold),))


def load(folder: Path | str) -> ClaraModel:
    """A checkpoint in float32 on the CPU."""
    return ClaraModel.from_options(folder, CPU)


def asked(model: ClaraModel, rows: list[Row], read: str = "ranked", top_k: int = READ, score: str = "em") -> float:
    """A score of the answers."""
    config = EvaluationConfig(top_k=top_k, read=read, max_new_tokens=16, batch_size=25)
    return evaluate(model, rows, config).metrics[score]


Point = tuple[str, Callable[[], float | dict[str, float]]]
"""A figure's name and what measures it; or several figures, whose names go behind it."""


def rates(work: Work, seed: int) -> list[Point]:
    """Stage 1 at five rates; oracle: from the gold document, normal: from the one that the compressor ranks first."""

    def at(rate: int) -> dict[str, float]:
        model, rows = load(work.run(f"rate{rate}", "stage1", seed, None, compress_rate=rate)), work.rows(seed)
        return {"oracle": asked(model, rows, "gold", 1), "normal": asked(model, rows, "ranked", 1)}

    return [(f"rate {rate}", lambda rate=rate: at(rate)) for rate in (2, 4, 8, 16, 32)]


def real_rates(work: Work, seed: int) -> list[Point]:
    """clara-small on 12 NQ questions of a seed, read at its own rate (3) and at others."""
    rows = list(read_rows([str(NQ)], prefer_gold=True))[12 * (seed - 1) : 12 * seed]

    def at(rate: int) -> dict[str, float]:
        model = at_rate(load("clara-small"), rate, CPU)
        return {"oracle": asked(model, rows, "gold", 1, "f1"), "normal": asked(model, rows, "ranked", 3, "f1")}

    return [(f"rate {rate}", lambda rate=rate: at(rate)) for rate in (2, 3, 4, 8)]


def mix(work: Work, seed: int) -> list[Point]:
    """Stage 2 after stage 1 on parts of its data, or after one step of it (none); from the gold document."""

    def after(name: str, kind: str | None, **more: Any) -> float:
        data = work.data("stage1", seed, lambda row: row["data_type"] == kind, f"-{kind}") if kind else None
        begin = work.run(f"mix-{name}", "stage1", seed, None, data, **more)
        return asked(load(work.run(f"mix-{name}-2", "stage2", seed, begin)), work.rows(seed), "gold", 1)

    return [
        ("no stage 1", lambda: after("none", None, max_steps=1)),
        ("questions", lambda: after("questions", "qa")),
        ("paraphrases", lambda: after("paraphrases", "paraphrase")),
        ("both", lambda: after("both", None)),
        ("both, no alignment loss", lambda: after("unaligned", None, mse_loss=False)),
    ]


def ranking(work: Work, seed: int) -> list[Point]:
    """Recall@1 of 20 over the steps of stage 3: from the answer alone, from labels, from the answer's likelihood."""
    rows = work.rows(seed)

    def of(folder: Path) -> float:
        return evaluate(load(folder), rows, EvaluationConfig(top_k=1, max_new_tokens=1)).metrics["recall@1"]

    def taught(name: str, **more: Any) -> dict[str, float]:
        folder = work.run(f"ranking-{name}", "stage3", seed, work.first_stages(seed), **more)
        return {str(step_of(path)): of(path) for path in whole_checkpoints(folder)} | {"end": of(folder)}

    def words() -> float:
        found = [(BM25Search(row.documents).nearest([row.questions[0]], 1)[0], row.positives) for row in rows]
        return mean(recall_at(order, wanted, 1) for order, wanted in found)

    return [
        ("before", lambda: of(work.first_stages(seed))),
        ("BM25", words),
        ("answer's loss", lambda: taught("answer")),
        ("labels", lambda: taught("labels", **LABELS)),
        ("likelihood, no labels", lambda: taught("likelihood", **LIKELIHOOD)),
    ]


def reasoner(work: Work, seed: int) -> list[Point]:
    """Stage 3 with a query reasoner that starts as the compressor, or from nothing."""

    def fresh() -> Path:
        target = work.folder / f"fresh-{seed}"
        if not (target / "config.json").is_file():
            torch.manual_seed(seed)
            model = load(work.first_stages(seed))
            model.add_role("query_reasoner")
            model.save_pretrained(target)
        return target

    def ranked(name: str, begin: Path) -> float:
        return asked(load(work.run(name, "stage3", seed, begin)), work.rows(seed))

    return [
        ("from the compressor", lambda: ranked("ranking-answer", work.first_stages(seed))),
        ("from nothing", lambda: ranked("ranking-fresh", fresh())),
    ]


def whole(work: Work, seed: int) -> list[Point]:
    """Stage 3 of generator and query reasoner, or of the generator alone."""

    def ranked(name: str, **more: Any) -> float:
        return asked(load(work.run(name, "stage3", seed, work.first_stages(seed), **more)), work.rows(seed))

    return [
        ("end to end", lambda: ranked("ranking-answer")),
        ("generator only", lambda: ranked("ranking-generator", query_learning_rate=1e-30)),
    ]


def passages(work: Work, seed: int) -> list[Point]:
    """clara-tiny reads the best 1 to 10 of 20 candidates."""
    model, rows = load("clara-tiny"), work.rows(seed)
    return [(f"k = {k}", lambda k=k: asked(model, rows, top_k=k)) for k in (1, 2, 3, 4, 5, 6, 8, 10)]


def distractors(work: Work, seed: int) -> list[Point]:
    """clara-tiny reads the best 5 (or all) of 1 to 20 candidates."""
    model = load("clara-tiny")
    counts = (0, 1, 2, 4, 9, 14, 19)
    return [(f"{n} distractors", lambda n=n: asked(model, work.rows(seed, n + 1))) for n in counts]


@dataclass(frozen=True)
class Group:
    """Figures that are measured together."""

    points: Callable[[Work, int], list[Point]]
    figure: str = "exact match"
    trained: bool = True


GROUPS = {
    "rates": Group(rates),
    "real-rates": Group(real_rates, "F1", trained=False),
    "mix": Group(mix),
    "ranking": Group(ranking, "recall@1"),
    "reasoner": Group(reasoner),
    "whole": Group(whole),
    "passages": Group(passages, trained=False),
    "distractors": Group(distractors, trained=False),
}


@dataclass(frozen=True)
class Claim:
    """What the paper says, in its figures, and when it holds here."""

    says: str
    paper: str
    group: str
    better: tuple[tuple[str, str, float], ...]
    """Pairs of points: the first one is at least the second less so much."""

    def word(self, seeds: Mapping[str, Mapping[str, float]]) -> str:
        """Whether it holds."""
        needed = {name for pair in self.better for name in pair[:2]}
        if not seeds or any(needed - set(one) for one in seeds.values()):
            return MISSING
        signs = [all(one[a] >= one[b] - less for a, b, less in self.better) for one in seeds.values()]
        return HOLDS if all(signs) else UNTOLD if any(signs) else NOT


CLAIMS = [Claim(*one) for one in (
    ("A rate of 16 costs at most 5 points against one of 4", "normal 39.86, 38.96; oracle 66.76, 63.90", "rates",
     (("rate 16 oracle", "rate 4 oracle", 0.05), ("rate 16 normal", "rate 4 normal", 0.05))),
    ("Twice the rate costs at most 5 points on real text (clara-small, trained at rate 3, read at others)", "as above",
     "real-rates", (("rate 4 oracle", "rate 2 oracle", 0.05), ("rate 4 normal", "rate 2 normal", 0.05))),
    ("Questions or paraphrases pretrain better than nothing", "none 54.4, questions 58.9, paraphrases 60.6", "mix",
     (("questions", "no stage 1", 0.0), ("paraphrases", "no stage 1", 0.0))),
    ("Both together pretrain best", "61.5", "mix", (("both", "questions", 0.0), ("both", "paraphrases", 0.0))),
    ("The alignment loss helps", "+0.5", "mix", (("both", "both, no alignment loss", 0.0),)),
    ("The answer's loss alone teaches a ranking above BM25's and that of labels",
     "recall@5 96.2, BM25 62.1, labels 82.8", "ranking",
     (("answer's loss end", "BM25", 0.0), ("answer's loss end", "labels end", 0.0))),
    ("A ranking above BM25's can be had without labels", "as above", "ranking",
     (("likelihood, no labels end", "BM25", 0.0),)),
    ("The query reasoner should start as the compressor", "from nothing 66.8, so 70.9", "reasoner",
     (("from the compressor", "from nothing", 0.0),)),
    ("Training generator and query reasoner beats the generator alone", "the generator alone 52.5, both 70.9",
     "whole", (("end to end", "generator only", 0.0),)),
    ("Five passages cost at most 5 points against the best one alone", "five are read", "passages",
     (("k = 5", "k = 1", 0.05),)),
    ("Nineteen distractors cost at most 5 points", "20 candidates", "distractors",
     (("19 distractors", "0 distractors", 0.05),)),
)]  # fmt: skip


def measure(work: Work, names: Sequence[str], seeds: Sequence[int]) -> Figures:
    """Every figure that is not there yet; written down one by one."""
    path = work.folder / "figures.json"
    found: Figures = json.loads(path.read_text()) if path.is_file() else {}
    work.folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        for seed in map(str, seeds):
            kept = found.setdefault(name, {}).setdefault(seed, {})
            for point, of in GROUPS[name].points(work, int(seed)):
                if any(one == point or one.startswith(f"{point} ") for one in kept):
                    continue
                value = of()
                kept |= {f"{point} {k}": v for k, v in value.items()} if isinstance(value, dict) else {point: value}
                logging.info("%s, seed %s: %s", name, seed, kept)
                path.write_text(json.dumps(found, indent=1) + "\n")
    return found


def table(found: Figures) -> str:
    """What the page shows between its marks."""
    lines = ["| claim | the paper | here | |", "| --- | --- | --- | --- |"]
    for claim in CLAIMS:
        seeds = found.get(claim.group, {})
        here = f"[{GROUPS[claim.group].figure}](#{claim.group})" if seeds else "-"
        lines.append(f"| {claim.says} | {claim.paper} | {here} | {claim.word(seeds)} |")
    for name, seeds in found.items():
        lines += ["", f"## {name}", "", str(GROUPS[name].points.__doc__), ""]
        lines += [
            f"| {GROUPS[name].figure}, {len(seeds)} seeds | mean | lowest | highest |",
            "| --- | --- | --- | --- |",
        ]
        for point, values in by_point(seeds).items():
            lines.append(f"| {point} | {mean(values):.3f} | {min(values):.3f} | {max(values):.3f} |")
        lines += ["", f"![{name}](claims/{name}.png)"]
    return "\n".join(lines) + "\n"


def by_point(seeds: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """The figures of all seeds."""
    points = dict.fromkeys(point for one in seeds.values() for point in one)
    return {point: [one[point] for one in seeds.values() if point in one] for point in points}


def draw(name: str, seeds: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Every point's mean, with its lowest and highest."""
    from matplotlib.figure import Figure

    points = by_point(seeds)
    figure = Figure(figsize=(7, 0.9 + 0.34 * len(points)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for row, values in enumerate(points.values()):
        axes.hlines(row, min(values), max(values), color="#3b6fb6", linewidth=2)
        axes.plot(mean(values), row, "o", color="#3b6fb6")
    axes.set(yticks=range(len(points)), yticklabels=list(points), ylim=(len(points) - 0.5, -0.5), xlim=(0, 1.02))
    axes.set_xlabel(f"{GROUPS[name].figure}, {len(seeds)} seeds (line: lowest to highest)")
    axes.grid(axis="x", color="#e6e6e6")
    figure.savefig(path)


MARKS = ("<!-- claims -->\n", "<!-- end -->")


def shown(text: str) -> str:
    """What stands between a page's marks."""
    return text.partition(MARKS[0])[2].partition(MARKS[1])[0]


def write_page(found: Figures) -> None:
    """Figures and pictures beside the page, and its tables."""
    DATA.parent.mkdir(exist_ok=True)
    DATA.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for name, seeds in found.items():
        draw(name, seeds, DATA.parent / f"{name}.png")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace(MARKS[0] + shown(text), MARKS[0] + table(found)), encoding="utf-8")


def main() -> None:
    """Measure what is asked for and not there yet; print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--untrained", action="store_true", help="only what the bundled models can tell")
    parser.add_argument("--share", type=float, default=1.0, help="of every run's steps (default: %(default)s)")
    parser.add_argument("--count", type=int, default=120, help="held-out questions of a seed (default: %(default)s)")
    parser.add_argument("--base", type=Path, help="folder of another base of the invented world")
    parser.add_argument("--page", action="store_true", help="write docs/experiments/claims.md")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    names = [name for name in args.only if not (args.untrained and GROUPS[name].trained)]
    found = measure(Work(args.folder, args.share, args.count, args.base), names, args.seeds)
    print(table(found))
    if args.page:
        write_page(found)


if __name__ == "__main__":
    main()
