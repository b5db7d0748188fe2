"""`examples/haystack_pipeline.yaml` over HTTP.

    hayhooks run --pipelines-dir examples/hayhooks --additional-python-path examples
    curl -s localhost:1416/clara/run -H 'content-type: application/json' -d '{"question": "Where was ...?"}'

The documents are the bundled ones, or the files and folders in CLARA_DOCS (separated by colons); another pipeline is
named by CLARA_PIPELINE. Requests share one copy of the model.
"""

import os
from pathlib import Path

import haystack_pipeline
from fastapi import HTTPException
from hayhooks import BasePipelineWrapper
from haystack import Pipeline

SAVED = Path(haystack_pipeline.__file__).with_suffix(".yaml")


class PipelineWrapper(BasePipelineWrapper):
    """Made once when the server starts."""

    def setup(self) -> None:
        """Load the pipeline, and put the documents where it looks for them."""
        self.pipeline = Pipeline.loads(Path(os.environ.get("CLARA_PIPELINE", SAVED)).read_text())
        docs = os.environ.get("CLARA_DOCS")
        documents = haystack_pipeline.read(docs.split(os.pathsep) if docs else None, self.pipeline)
        haystack_pipeline.index(documents, self.pipeline)
        self.pipeline.warm_up()

    def run_api(self, question: str) -> dict:
        """Answer a question from the documents; a blank one is the caller's mistake (422), not the server's."""
        if not question.strip():
            raise HTTPException(422, f"question must not be blank, but got {question!r}")
        result = self.pipeline.run(haystack_pipeline.inputs(self.pipeline, question))
        answer = result["answers"]["answers"][0]
        return {
            "answer": answer.data,
            "documents": [{"id": document.id, "score": document.score} for document in answer.documents],
            "usage": answer.meta["usage"],
        }
