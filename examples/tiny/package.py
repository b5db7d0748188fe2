"""Make the bundled folder of clara-tiny: base, adapters and tokenizer in bfloat16, the card, and the demo's questions.

python examples/tiny/package.py CHECKPOINT BASE [--figures figures.json] [--target FOLDER]
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from data import READ
from measure import BARS, PLUS_MINUS
from transformers import AutoModelForCausalLM, AutoTokenizer
from world import Entity, World

from clara_model import ClaraModel
from clara_model.checkpoint.files import write

BUNDLED = Path(__file__).resolve().parents[2] / "clara_model" / "bundled"
DEMO_SEED, DEMO_DOCUMENTS, DEMO_QUESTIONS = 30_000, 24, 4
MEGABYTE = 1_000_000


def bundle(checkpoint: Path, base: Path, target: Path) -> None:
    """Write the model's files to ``target``, which is emptied first."""
    shutil.rmtree(target, ignore_errors=True)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(target / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(target / "base")
    model = ClaraModel.from_pretrained(checkpoint, base_model=base, dtype=torch.bfloat16, device="cpu")
    state = model.state()
    state.config = replace(state.config, base_model="./base", licence="Apache-2.0")
    write(state, target)


def card(figures: dict[str, float], commands: str, size: int) -> str:
    """The model card, every number in it measured."""
    seed, questions = figures["seed"], figures["questions"]
    rows = "\n".join(
        f"| {name} | {value:.3f} | {_half(figures, name)} | {'>= ' + str(BARS[name]) if name in BARS else ''} |"
        for name, value in figures.items()
        if name not in ("seed", "questions", "pools") and not name.endswith(PLUS_MINUS)
    )
    return f"""# clara-tiny

A CLaRa model small enough to ship inside the package ({size / MEGABYTE:.1f} MB), trained from nothing on invented
people, places and works. It answers short questions about such documents and knows nothing else; it shows and tests the
whole path offline. One command makes such a model from nothing (the one in the package went a longer way, see
docs/experiments/clara-tiny.md):

```sh
{commands}
```

Figures on {questions:.0f} held-out questions (greedy, seed {seed:.0f}, no name in them occurs in training),
printed by `python examples/tiny/measure.py`. They come from {figures["pools"]:.0f} pools of documents; ± is half of a
95 % interval over pools.

| figure | measured | ± | bar |
|---|---|---|---|
{rows}

`read_from_memory_f1` is F1 from the right document's latents less F1 from another's. A search by words (BM25) ranks
this world's documents at `bm25_recall`: a question repeats its document's names. The generator
{_reads(figures)}: `five_unranked_em_place_1` to `_5` are
its answers when the right document stands at each place of five that nobody ranked.

Licence: Apache-2.0, weights and data alike.
"""


def _reads(figures: dict[str, float]) -> str:
    """What the figures by place say."""
    first, *others = (figures[f"five_unranked_em_place_{place}"] for place in range(1, READ + 1))
    if min(others) >= 0.8 * first:
        return "finds the document that a question names wherever it stands"
    if max(others) >= 0.1:
        return "reads some places better than others"
    return "reads the document that the ranking puts first and hardly any other"


def _half(figures: dict[str, float], name: str) -> str:
    half = figures.get(f"{name}{PLUS_MINUS}")
    return "" if half is None else f"{half:.3f}"


def demo_set() -> dict[str, list[dict[str, str]]]:
    """Held-out documents, and questions about some of them."""
    world = World(DEMO_SEED, held_out=True)
    entities = world.entities(DEMO_DOCUMENTS)
    documents = [{"title": _title(entity), "text": world.document(entity)} for entity in entities]
    questions = []
    for entity in world.rng.sample(entities, DEMO_QUESTIONS):
        ((question, answer),) = world.questions(entity, 1)
        questions.append({"question": question, "answer": answer})
    return {"documents": documents, "questions": questions}


def _title(entity: Entity) -> str:
    return entity.name[0].upper() + entity.name[1:]


def main() -> None:
    """Bundle, and write the card when there are figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--figures", type=Path, help="JSON that measure.py wrote; makes the card")
    parser.add_argument("--target", type=Path, default=BUNDLED / "clara-tiny", help="default: where it is bundled")
    args = parser.parse_args()
    target = args.target
    if args.figures:
        figures = json.loads(args.figures.read_text())
        (target / "figures.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        text = card(figures, "python examples/tiny/train.py", size)
        (target / "README.md").write_text(text, encoding="utf-8")
        return
    bundle(args.checkpoint, args.base, target)
    text = json.dumps(demo_set(), indent=1, ensure_ascii=False) + "\n"
    (target.parent / "demo.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
