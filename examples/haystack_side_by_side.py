"""Stock Haystack parts and CLaRa's on the same documents and retriever: answers, rankings, prompt tokens, seconds.

    python examples/haystack_side_by_side.py                                   # the bundled model and documents
    python examples/haystack_side_by_side.py "Where was ...?" --docs notes/ \\
        --model apple/CLaRa-7B-E2E --subfolder compression-16                  # on a GPU
    python examples/haystack_side_by_side.py --stock-ranker cross-encoder/ms-marco-MiniLM-L-6-v2

Stock is BM25, a prompt builder and a chat generator: the same base model, reading the text of documents, which are in
BM25's order or in that of a `SentenceTransformersSimilarityRanker` (pip install sentence-transformers-haystack).
CLaRa is `haystack_pipeline.py`. Seconds are a whole query's; the first time it compresses what is not compressed yet,
the second time it finds that in the cache. Loading is left out.
"""

import time

from haystack import Document, Pipeline, component
from haystack.components.builders import AnswerBuilder, ChatPromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import ChatMessage
from haystack_pipeline import arguments, build, bundled, index, inputs, questions_of, read
from side_by_side_table import table

from clara_model import Clara

TEMPLATE = """Answer the question from the documents, in a few words.
{% for document in documents %}
Document: {{ document.content }}
{% endfor %}
Question: {{ query }}"""


@component
class BaseModelChat:
    """A local chat generator: the base model of a CLaRa checkpoint, which reads text. Shares the weights with CLaRa."""

    def __init__(self, clara: Clara, max_new_tokens: int) -> None:
        self.clara, self.max_new_tokens = clara, max_new_tokens

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage]) -> dict[str, list[ChatMessage]]:
        turns = [{"role": message.role.value, "content": message.text or ""} for message in messages]
        answer = self.clara.plain(turns, max_new_tokens=self.max_new_tokens)
        usage = {"prompt_tokens": answer.usage.prompt_tokens, "completion_tokens": answer.usage.completion_tokens}
        return {"replies": [ChatMessage.from_assistant(answer.text, meta={"usage": usage})]}


def stock(args, store, clara):
    """Retriever, perhaps a ranker, prompt builder and chat generator."""
    pipeline = Pipeline()
    last = "bm25.documents"
    wanted = args.candidates if args.stock_ranker else args.top_k
    pipeline.add_component("bm25", InMemoryBM25Retriever(store, top_k=wanted))
    if args.stock_ranker:
        from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

        pipeline.add_component(
            "ranker", SentenceTransformersSimilarityRanker(model=args.stock_ranker, top_k=args.top_k)
        )
        pipeline.connect(last, "ranker.documents")
        last = "ranker.documents"
    pipeline.add_component("prompt", ChatPromptBuilder([ChatMessage.from_user(TEMPLATE)], required_variables="*"))
    pipeline.add_component("generator", BaseModelChat(clara, args.max_new_tokens))
    pipeline.add_component("answers", AnswerBuilder())
    pipeline.connect(last, "prompt.documents")
    pipeline.connect(last, "answers.documents")
    pipeline.connect("prompt.prompt", "generator.messages")
    pipeline.connect("generator.replies", "answers.replies")
    return pipeline


def ask(pipeline, data):
    """The answer, and the seconds of the whole query."""
    start = time.perf_counter()
    answer = pipeline.run(data)["answers"]["answers"][0]
    return answer, time.perf_counter() - start


def main(argv=None):
    parser = arguments(__doc__.splitlines()[0])
    parser.set_defaults(retriever="bm25")
    parser.add_argument("--stock-ranker", help="cross-encoder of the stock pipeline (default: none, BM25's order)")
    args = parser.parse_args(argv)
    ours = build(args)
    documents: list[Document] = read(args.docs, ours)
    index(documents, ours)
    ours.warm_up()
    theirs = stock(args, ours.get_component("bm25").document_store, ours.get_component("ranker").clara)
    theirs.warm_up()
    if args.retriever != "bm25":
        ours.get_component("ranker").clara.store.clear()  # the index has compressed everything; show that cost
    rows = []
    for question in questions_of(args, ours):
        rows.append({"question": question})
        data = {"bm25": {"query": question}, "prompt": {"query": question}, "answers": {"query": question}}
        data |= {"ranker": {"query": question}} if args.stock_ranker else {}
        print(f"\n{question}")
        for name, pipeline, given in (("stock", theirs, data), ("CLaRa", ours, inputs(ours, question))):
            answer, first = ask(pipeline, given)
            _, again = ask(pipeline, given)
            print(f"  {name}: {answer.data.strip()!r}")
            print(f"    {answer.meta['usage']['prompt_tokens']} prompt tokens; {first:.2f} s, again {again:.2f} s")
            for document in answer.documents:
                print(f"    {document.score:7.3f}  {document.id}")
            rows[-1][name] = answer.data.strip(), answer.meta["usage"]["prompt_tokens"]
    print(table(rows, bundled(ours)))
    ours.close()


if __name__ == "__main__":
    main()
