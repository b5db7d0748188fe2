"""A LlamaIndex query engine that reranks and answers from latents.

    python examples/llama_index_query_engine.py                                # the bundled model and documents
    python examples/llama_index_query_engine.py "Where was ...?" --docs notes/ --retriever keyword --stream
    python examples/llama_index_query_engine.py "Where was ...?" --docs notes/ \\
        --model apple/CLaRa-7B-E2E --subfolder compression-16                  # on a GPU

A first stage finds candidates, by words (BM25, here in the file) or by `ClaraEmbedding` in an in-memory vector store;
`ClaraQueryEngine` ranks them by their latents and answers from the best. Left out: keeping an index on disk.
"""

import argparse
import math
import re
import sys
from collections import Counter

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from clara_integrations.llama_index import ClaraEmbedding, ClaraLLM, ClaraQueryEngine
from clara_model.checkpoint.bundled_models import DEFAULT_HELP, default_model
from clara_model.cli.demo import DemoSet, set_of
from clara_model.documents.passages import read_documents, split_documents


class KeywordRetriever(BaseRetriever):
    """BM25 over nodes in memory, with no package but this; for a large corpus use a search engine."""

    def __init__(self, nodes, similarity_top_k=20, k1=1.5, b=0.75):
        super().__init__()
        self.nodes, self.similarity_top_k = list(nodes), similarity_top_k
        counts = [Counter(words(node.get_content(metadata_mode=MetadataMode.EMBED))) for node in self.nodes]
        found_in = Counter(word for count in counts for word in count)
        mean = sum(map(Counter.total, counts)) / max(1, len(counts))
        self.weights = [
            {
                word: math.log1p((len(counts) - found_in[word] + 0.5) / (found_in[word] + 0.5))
                * (n * (k1 + 1) / (n + k1 * (1 - b + b * count.total() / mean)))
                for word, n in count.items()
            }
            for count in counts
        ]

    def _retrieve(self, query_bundle):
        asked = words(query_bundle.query_str)
        scores = [sum(weights.get(word, 0.0) for word in asked) for weights in self.weights]
        best = sorted(range(len(scores)), key=lambda index: -scores[index])[: self.similarity_top_k]
        return [NodeWithScore(node=self.nodes[index], score=scores[index]) for index in best]


def words(text):
    return re.findall(r"\w+", text.lower())


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
    parser.add_argument("--retriever", choices=["embedding", "keyword"], default="embedding", help="the first stage")
    parser.add_argument("--dimensions", type=int, default=1024, help="numbers in an embedding (default: %(default)s)")
    parser.add_argument("--similarity-top-k", type=int, default=20, help="candidates that the first stage finds")
    parser.add_argument("--top-n", type=int, help="documents to answer from (default: the checkpoint's own number)")
    parser.add_argument("--max-new-tokens", type=int, default=64)
    return parser


def loading(args):
    """What every component of one checkpoint is given."""
    names = ("model", "subfolder", "revision", "base_model", "device", "dtype", "quantization")
    return {name: getattr(args, name) for name in names}


def read(args, clara):
    """Nodes, each of which the model reads whole, and questions."""
    if args.docs:
        if not args.questions:
            sys.exit("ask a question about your documents: it comes before --docs")
        passages = split_documents(read_documents(args.docs), clara.count_tokens, clara.doc_max_length)
        return [TextNode(id_=passage.citation, text=passage.text) for passage in passages], args.questions
    bundled = DemoSet.read(set_of(args.model))
    pairs = zip(bundled.names(), bundled.texts, strict=True)
    return [TextNode(id_=name, text=text) for name, text in pairs], args.questions or bundled.questions


def first_stage(args, nodes, similarity_top_k):
    """Any LlamaIndex retriever will do; here are two."""
    if args.retriever == "keyword":
        return KeywordRetriever(nodes, similarity_top_k)
    embedding = ClaraEmbedding(dimensions=args.dimensions, **loading(args))
    return VectorStoreIndex(nodes, embed_model=embedding).as_retriever(similarity_top_k=similarity_top_k)


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--stream", action="store_true", help="print the answer as it is written")
    args = parser.parse_args(argv)
    nodes, questions = read(args, ClaraLLM(**loading(args)).clara)
    engine = ClaraQueryEngine.from_retriever(
        first_stage(args, nodes, args.similarity_top_k),
        top_n=args.top_n,
        streaming=args.stream,
        max_new_tokens=args.max_new_tokens,
        **loading(args),
    )
    for question in questions:
        print(f"\n{question}")
        response = engine.query(question)
        for piece in response.response_gen if args.stream else [response.response]:
            print(piece, end="", flush=True)
        print()
        for node in response.source_nodes:
            print(f"  {node.score:.3f}  {node.node_id}")


if __name__ == "__main__":
    main()
