"""A server, and what is asked of it over HTTP: ranking, an answer, a store; then the same by the client of openai.

    python examples/serving/client.py

Starts `clara serve` on a free port with a store in a temporary folder, and ends it. A server that runs already is taken
with ``--url http://127.0.0.1:8080``.
"""

import argparse
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory

import httpx

TEXTS = {
    "kitchen": "The kitchen closes at nine in the evening. Guests who arrive later find cold food in the fridge.",
    "boiler": "The boiler in the cellar was replaced in March 2021. Its filter has to be cleaned every six months.",
    "bicycles": "Bicycles can be rented at the front desk for twelve dollars a day. Helmets are free.",
}
QUESTION = "How often does the filter have to be cleaned?"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="of a server that runs already (default: start one)")
    args = parser.parse_args()
    if args.url:
        ask(args.url)
        return
    with TemporaryDirectory() as folder, serving("--store", f"{folder}/store") as (url, _):
        ask(url)


def ask(url: str) -> None:
    with httpx.Client(base_url=url, timeout=120) as http:
        ranked = http.post("/v1/rerank", json={"query": QUESTION, "documents": list(TEXTS.values())}).json()
        print("ranked:", [(one["index"], round(one["relevance_score"], 3)) for one in ranked["results"]])
        documents = [{"id": name, "text": text} for name, text in TEXTS.items()]
        print("kept:", http.post("/v1/documents", json={"documents": documents}).json()["ids"])
        found = http.post("/v1/search", json={"query": QUESTION, "top_k": 1}).json()["data"][0]
        print("found:", found["document"], round(found["score"], 3))
        messages = [{"role": "user", "content": QUESTION}]
        answer = http.post("/v1/chat/completions", json={"messages": messages, "documents": [{"id": "boiler"}]}).json()
        print("answered:", answer["choices"][0]["message"]["content"], answer["usage"])
        for name in TEXTS:
            http.delete(f"/v1/documents/{name}")
    try:
        from openai import OpenAI
    except ImportError:
        print("(pip install openai shows the same by its client)")
        return
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    how = {"documents": list(TEXTS.values()), "top_k": 1}
    stream = client.chat.completions.create(model="clara", messages=messages, stream=True, extra_body=how)
    print("openai:", "".join(piece.choices[0].delta.content or "" for piece in stream if piece.choices))


@contextmanager
def serving(*words: str) -> Iterator[tuple[str, int]]:
    """A server's address and its process, which ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "clara_model.cli.main", "serve", "--port", str(port), *words])
    url = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 300
        while not answers(url):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit("the server has not started")
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
