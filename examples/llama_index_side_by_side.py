"""Stock LlamaIndex parts and CLaRa's on the same retriever and documents: answers, rankings, prompt tokens, seconds.

    python examples/llama_index_side_by_side.py                                # the bundled model and documents
    python examples/llama_index_side_by_side.py --retriever keyword
    python examples/llama_index_side_by_side.py "Where was ...?" --docs notes/ \\
        --model apple/CLaRa-7B-E2E --subfolder compression-16                  # on a GPU
    python examples/llama_index_side_by_side.py --stock-reranker cross-encoder/ms-marco-MiniLM-L-6-v2

Stock is the `compact` synthesizer with the same base model reading text, over the first documents as the retriever
orders them, or as `SentenceTransformerRerank` does (with sentence-transformers installed). Seconds are a whole query's:
the first time it compresses what is not compressed yet, the second time that is in the cache. Loading is left out.
"""

import time

from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent
from llama_index.core.postprocessor import SentenceTransformerRerank
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index_query_engine import arguments, first_stage, loading, read
from side_by_side_table import table

from clara_integrations.llama_index import ClaraLLM, ClaraQueryEngine
from clara_model.cli.demo import DemoSet, set_of


class PromptTokens(BaseEventHandler):
    """Adds up the prompt tokens of whatever generates."""

    total: int = 0

    def handle(self, event, **kwargs):
        if isinstance(event, LLMChatEndEvent) and event.response is not None:
            self.total += event.response.raw["usage"]["prompt_tokens"]


def stock_engine(args, nodes, llm, top_n):
    """The base model reads the text of the first documents."""
    name = args.stock_reranker
    rerankers = [SentenceTransformerRerank(model=name, top_n=top_n)] if name else []
    retriever = first_stage(args, nodes, args.similarity_top_k if name else top_n)
    return RetrieverQueryEngine.from_args(retriever, llm=llm, response_mode="compact", node_postprocessors=rerankers)


def clara_engine(args, nodes, top_n):
    """The generator reads the latents of the documents that they rank best."""
    retriever = first_stage(args, nodes, args.similarity_top_k)
    return ClaraQueryEngine.from_retriever(retriever, top_n=top_n, **writing(args), **loading(args))


def writing(args):
    """How both engines generate: greedily, and not beyond the answer."""
    return {"max_new_tokens": args.max_new_tokens, "generate_kwargs": {"stop": args.stop}}


def ask(engine, question, tokens):
    """The response, its prompt tokens, and its seconds."""
    tokens.total, start = 0, time.perf_counter()
    response = engine.query(question)
    return response, tokens.total, time.perf_counter() - start


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--stock-reranker", help="cross-encoder of the stock engine (default: none)")
    parser.add_argument("--stop", nargs="*", default=["\nQuestion:"], help="strings that end an answer")
    args = parser.parse_args(argv)
    llm = ClaraLLM(**writing(args), **loading(args))
    top_n = args.top_n or llm.clara.model.config.top_k
    nodes, questions = read(args, llm.clara)
    engines = {
        "stock": stock_engine(args, nodes, llm, top_n),
        "CLaRa": clara_engine(args, nodes, top_n),
    }
    tokens = PromptTokens()
    get_dispatcher().add_event_handler(tokens)
    if args.retriever == "embedding":
        llm.clara.store.clear()  # building the index has compressed everything; let the first query show that cost
    rows = []
    for question in questions:
        rows.append({"question": question})
        print(f"\n{question}")
        for name, engine in engines.items():
            response, prompt_tokens, first = ask(engine, question, tokens)
            _, _, second = ask(engine, question, tokens)
            print(f"  {name}: {response.response.strip()!r}")
            print(f"    {prompt_tokens} prompt tokens; {first:.2f} s, again {second:.2f} s")
            for node in response.source_nodes:
                print(f"    {node.get_score():7.3f}  {node.node_id}")
            rows[-1][name] = response.response.strip(), prompt_tokens
    print(table(rows, DemoSet.read(set_of(args.model))))


if __name__ == "__main__":
    main()
