"""How well the cosine of `modeling.embedding`'s vectors agrees with the full latent score.

    python examples/benchmarks/embedding_agreement.py                          # clara-tiny on 400 new documents
    python examples/benchmarks/embedding_agreement.py --docs corpus.jsonl --questions questions.txt \\
        --model apple/CLaRa-7B-E2E --subfolder compression-16                  # on a GPU
    python examples/benchmarks/embedding_agreement.py --model clara-small      # its bundled passages and questions

Every question is scored against every document. Columns: root mean square difference of the scores; the same once each
question's mean difference is taken away, which is what can change a ranking; the rank correlation (Spearman); the share
of the full score's best 5 that are among the vectors' best 20; and how often the document that was asked about is among
the best 20 (known for the documents made here). For comparison, the row `mean` is the mean over memory tokens, which
keeps ``D`` numbers, and `full` is the block itself. The score is the checkpoint's own; where that is not the cosine, a
vector is that mean, and the first two columns compare figures of two kinds.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F

from clara_model import Clara
from clara_model.cli.demo import BUNDLED_SET, DemoSet, set_of
from clara_model.documents.passages import read_documents, split_documents
from clara_model.modeling.embedding import project
from clara_model.modeling.ranking import coarse_blocks, scores_in_parts

SIZES = (64, 128, 256, 512, 1024, 2048, 4096)
AMONG = 20
"""Candidates that a first stage hands on."""
COLUMNS = ("difference", "centred", "rank_correlation", "best_5", "asked_about")
"""Of a row, as the JSON names them."""


def agreement(vectors_BK, scores_BK, asked_about):
    """The columns of one row."""
    difference = vectors_BK - scores_BK
    centred = difference - difference.mean(dim=1, keepdim=True)
    ranks, full = (values.argsort(dim=1).argsort(dim=1).float() for values in (vectors_BK, scores_BK))
    best = scores_BK.topk(min(5, scores_BK.shape[1]), dim=1).indices
    return [
        difference.pow(2).mean().sqrt().item(),
        centred.pow(2).mean().sqrt().item(),
        F.cosine_similarity(ranks - ranks.mean(), full - full.mean(), dim=1).mean().item(),
        found(vectors_BK, best),
        None if asked_about is None else found(vectors_BK, torch.tensor(asked_about).unsqueeze(1)),
    ]


def found(vectors_BK, wanted):
    """The share of the wanted that are among the best."""
    offered = vectors_BK.topk(min(AMONG, vectors_BK.shape[1]), dim=1).indices
    return (wanted.unsqueeze(2) == offered.unsqueeze(1)).any(dim=2).float().mean().item()


def made(count):
    """Documents about invented things, a question about every fourth, and the numbers of those documents."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny"))
    from world import World

    world = World(40_000, held_out=True)
    entities = world.entities(count)
    documents, asked_about = [world.document(entity) for entity in entities], list(range(0, count, 4))
    return documents, [world.questions(entities[index], 1)[0][0] for index in asked_about], asked_about


def bundled(model):
    """The passages that a bundled model comes with, their questions, and the first passage that holds each answer."""
    ours = DemoSet.read(set_of(model))
    places = [
        next(index for index, text in enumerate(ours.texts) if any(answer in text for answer in accepted))
        for accepted in ours.answers
    ]
    return ours.texts, ours.questions, places


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="clara-tiny")
    parser.add_argument("--subfolder")
    parser.add_argument("--device")
    parser.add_argument("--docs", nargs="+", help="files or folders (default: bundled or made here)")
    parser.add_argument("--questions", type=Path, help="one question a line, about the documents")
    parser.add_argument("--count", type=int, default=400, help="documents that are made")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args(argv)
    if bool(args.docs) != bool(args.questions):
        parser.error("--docs and --questions go together")
    with Clara.load(args.model, subfolder=args.subfolder, device=args.device) as clara:
        if args.docs:
            passages = split_documents(read_documents(args.docs), clara.count_tokens, clara.doc_max_length)
            texts = list(dict.fromkeys(passage.text for passage in passages))
            asked, asked_about = [line for line in args.questions.read_text().splitlines() if line.strip()], None
        elif set_of(args.model) != BUNDLED_SET:
            texts, asked, asked_about = bundled(args.model)
        else:
            texts, asked, asked_about = made(args.count)
        questions, documents = clara.encode_queries(asked).vectors, clara.compress(texts).vectors
        ranking = clara.model.config.ranking
    scores = scores_in_parts(questions, documents, ranking=ranking)
    print(f"{len(questions)} questions, {len(documents)} documents, blocks of {tuple(documents.shape[1:])}; {ranking}")
    questions, documents = (coarse_blocks(blocks, ranking) for blocks in (questions, documents))
    width = documents[0].numel()
    print(f"full score: mean {scores.mean():.3f}, spread within a question {scores.std(dim=1).mean():.4f}\n")
    print(f"| size | difference | centred | rank correlation | best 5 in {AMONG} | asked about in {AMONG} |")
    print("|---|---|---|---|---|---|")
    rows = {str(size): (project(questions, size), project(documents, size)) for size in SIZES if size < width}
    pooled = [F.normalize(part.float().mean(dim=1), dim=-1) for part in (questions, documents)]
    rows[f"mean ({documents.shape[2]})"] = (pooled[0], pooled[1])
    rows[f"full ({width})"] = (project(questions, width), project(documents, width))
    written = {}
    for name, (queries, offered) in rows.items():
        values = agreement(queries @ offered.T, scores, asked_about)
        written[name] = dict(zip(COLUMNS, values, strict=True))
        shown = [f"{value:.4f}" for value in values[:2]]
        shown += ["-" if value is None else f"{value:.3f}" for value in values[2:]]
        print(f"| {name} | {' | '.join(shown)} |")
    if args.json:
        args.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
