"""A Haystack pipeline that ranks and answers from latents.

    python examples/haystack_pipeline.py                                       # the bundled model and documents
    python examples/haystack_pipeline.py "Where was ...?" --docs notes/ --retriever bm25 --stream
    python examples/haystack_pipeline.py --pipeline examples/haystack_pipeline.yaml
    python examples/haystack_pipeline.py "Where was ...?" --docs notes/ \\
        --model apple/CLaRa-7B-E2E --subfolder compression-16                  # on a GPU

A first stage finds candidates, by words (BM25), by `ClaraDocumentEmbedder`'s vectors, or both; `ClaraRanker` ranks them
by their latents and `ClaraGenerator` answers from the best. ``--save`` writes the pipeline as YAML. Left out: keeping
the documents on disk; use another document store for that.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from haystack import Document, Pipeline
from haystack.components.builders import AnswerBuilder
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever, InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import ComponentDevice

from clara_integrations.haystack import ClaraDocumentEmbedder, ClaraGenerator, ClaraRanker, ClaraTextEmbedder
from clara_model.checkpoint.bundled_models import DEFAULT_HELP, default_model
from clara_model.cli.demo import DemoSet, set_of
from clara_model.documents.passages import read_documents, split_documents

INDEX = "clara-example"
"""Name of the in-memory store; a pipeline that is loaded from YAML finds its documents under it."""


def arguments(description):
    """The options of this example and of the side-by-side one."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("questions", nargs="*", help="what to ask (default: the questions of the bundled set)")
    parser.add_argument("--docs", nargs="+", help=".txt, .md and .jsonl files and folders (default: the bundled set)")
    parser.add_argument(
        "--model", default=default_model(), help=f"a folder, a bundled or a hub name (default: {DEFAULT_HELP})"
    )
    for name in ("subfolder", "revision", "base-model", "device", "dtype", "quantization"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--retriever", choices=["both", "bm25", "embedding"], default="both", help="the first stage")
    parser.add_argument("--dimensions", type=int, default=1024, help="numbers in an embedding (default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=20, help="documents that each retriever finds")
    parser.add_argument("--top-k", type=int, default=3, help="documents to answer from")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    return parser


def loading(args):
    """What every component of one checkpoint is given."""
    kwargs = {name: getattr(args, name) for name in ("base_model", "quantization") if getattr(args, name)}
    return {
        "model": args.model,
        "subfolder": args.subfolder,
        "revision": args.revision,
        "dtype": args.dtype,
        "device": ComponentDevice.from_str(args.device) if args.device else None,
        "model_kwargs": kwargs,
    }


def bundled(pipeline):
    """The documents and questions that are there for the model of a pipeline."""
    return DemoSet.read(set_of(str(pipeline.get_component("ranker").model)))


def questions_of(args, pipeline):
    """What is asked: the bundled set's questions are about the bundled documents."""
    if args.docs and not args.questions:
        sys.exit("ask a question about your documents: it comes before --docs")
    return args.questions or bundled(pipeline).questions


def read(docs, pipeline):
    """Documents, each of which the model reads whole: of files and folders, or the bundled ones."""
    if not docs:
        ours = bundled(pipeline)
        return [Document(id=name, content=text) for name, text in zip(ours.names(), ours.texts, strict=True)]
    clara = pipeline.get_component("ranker").clara
    passages = split_documents(read_documents(docs), clara.count_tokens, clara.doc_max_length)
    return [Document(id=passage.citation, content=passage.text) for passage in passages]


def index(documents, pipeline):
    """Put documents into the pipeline's store and, where its first stage needs them, their vectors."""
    names = pipeline.to_dict()["components"]
    if "embedder" in names:
        embedder = pipeline.get_component("embedder")
        same = ("model", "subfolder", "revision", "dtype", "device", "token", "model_kwargs", "dimensions")
        options = {name: getattr(embedder, name) for name in same}
        documents = ClaraDocumentEmbedder(progress_bar=False, **options).run(documents)["documents"]
    store = pipeline.get_component("bm25" if "bm25" in names else "vectors").document_store
    store.delete_all_documents()  # the store is known by its name: an earlier pipeline of this process filled it too
    store.write_documents(documents, policy=DuplicatePolicy.OVERWRITE)


def first_stage(args, pipeline):
    """Add the retrievers; the name of the output that has the candidates."""
    store = InMemoryDocumentStore(index=INDEX)
    if args.retriever != "embedding":
        pipeline.add_component("bm25", InMemoryBM25Retriever(store, top_k=args.candidates))
    if args.retriever != "bm25":
        pipeline.add_component("embedder", ClaraTextEmbedder(dimensions=args.dimensions, **loading(args)))
        pipeline.add_component("vectors", InMemoryEmbeddingRetriever(store, top_k=args.candidates))
        pipeline.connect("embedder.embedding", "vectors.query_embedding")
    if args.retriever != "both":
        return f"{'bm25' if args.retriever == 'bm25' else 'vectors'}.documents"
    pipeline.add_component("joiner", DocumentJoiner())
    pipeline.connect("bm25.documents", "joiner.documents")
    pipeline.connect("vectors.documents", "joiner.documents")
    return "joiner.documents"


def build(args):
    """The whole pipeline."""
    pipeline = Pipeline()
    candidates = first_stage(args, pipeline)
    how = {"max_new_tokens": args.max_new_tokens}
    pipeline.add_component("ranker", ClaraRanker(top_k=args.top_k, **loading(args)))
    pipeline.add_component("generator", ClaraGenerator(top_k=args.top_k, generation_kwargs=how, **loading(args)))
    pipeline.add_component("answers", AnswerBuilder())
    pipeline.connect(candidates, "ranker.documents")
    pipeline.connect("ranker.documents", "generator.documents")
    pipeline.connect("ranker.documents", "answers.documents")
    pipeline.connect("generator.replies", "answers.replies")
    return pipeline


def inputs(pipeline, question):
    """The question for every component that takes one."""
    data = {"ranker": {"query": question}, "generator": {"query": question}, "answers": {"query": question}}
    names = pipeline.to_dict()["components"]
    if "bm25" in names:
        data["bm25"] = {"query": question}
    if "embedder" in names:
        data["embedder"] = {"text": question}
    return data


async def stream(pipeline, question):
    """Print the answer as it is written."""
    handle = pipeline.stream(inputs(pipeline, question))
    async for chunk in handle:
        print(chunk.content, end="", flush=True)
    return handle.result


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--stream", action="store_true", help="print the answer as it is written")
    parser.add_argument("--pipeline", type=Path, help="a saved pipeline, instead of one made of the options")
    parser.add_argument("--save", type=Path, help="write the pipeline there, and ask nothing")
    args = parser.parse_args(argv)
    if args.pipeline:
        pipeline = Pipeline.loads(args.pipeline.read_text())
    else:
        pipeline = build(args)
    if args.save:
        args.save.write_text(pipeline.dumps())
        return
    questions = questions_of(args, pipeline)
    index(read(args.docs, pipeline), pipeline)
    for question in questions:
        print(f"\n{question}")
        result = asyncio.run(stream(pipeline, question)) if args.stream else pipeline.run(inputs(pipeline, question))
        answer = result["answers"]["answers"][0]
        print("" if args.stream else answer.data)
        for document in answer.documents:
            print(f"  {document.score:.3f}  {document.id}")
    pipeline.close()


if __name__ == "__main__":
    main()
