"""A chat model that is a rule: an OpenAI-compatible HTTP server on loopback whose replies follow from the document.

A document is sentences of the form `NAME is THING.`; the model asks `What is NAME?`. Its first list leaves out the last
sentence and adds a wrong pair, so supplementary questions and the judge have something to do.
"""

import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WRONG = {"question": "What is the moon?", "answer": "cheese"}


def sentences(document):
    return re.findall(r"(\w[\w ]*?) is ([\w ]+)\.", document)


def pairs_json(found):
    return json.dumps([{"question": f"What is {name}?", "answer": thing} for name, thing in found])


class Rule:
    """The replies; a test overrides a method to make the model worse."""

    def simple(self, document):
        return json.dumps([*json.loads(pairs_json(sentences(document)[:-1])), WRONG])

    def supplementary(self, document, asked):
        return pairs_json([pair for pair in sentences(document) if f"What is {pair[0]}?" not in asked])

    def complex(self, document):
        first, last = sentences(document)[0], sentences(document)[-1]
        answer = "yes" if first == last else "no"
        return json.dumps([{"question": f"Is {first[0]} the same as {last[0]}?", "answer": answer}])

    def paraphrase(self, document):
        return " ".join(f"{thing} is what {name} is." for name, thing in reversed(sentences(document)))

    def judge_pair(self, document, shown):
        return "no" if "cheese" in shown else "yes"

    def judge_paraphrase(self, document, shown):
        return "Yes."

    def reply(self, messages):
        system, user = messages[0]["content"], messages[-1]["content"]
        document, rest = re.search(r"<document>\n(.*?)\n</document>\n\n(.*)", user, re.DOTALL).groups()
        if system.startswith("You check"):
            return (self.judge_paraphrase if "A paraphrase:" in rest else self.judge_pair)(document, rest)
        if system.startswith("You rewrite"):
            return self.paraphrase(document)
        if "putting together" in rest:
            return self.complex(document)
        if "asked already" in rest:
            return self.supplementary(document, rest)
        return self.simple(document)


class ChatServer:
    """Counts what it is asked; `interfere` may answer a request differently, `hold` stops all answers."""

    def __init__(self, rule):
        self.rule = rule
        self.lock = threading.Lock()
        self.answered = Counter()
        self.raw, self.bodies, self.times, self.headers = [], [], [], []
        self.at_once = self.most_at_once = 0
        self.hold_after = None
        self.released = threading.Event()
        self.interfere = lambda number, body: None
        self.usage = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, body, raw):
        """Status, headers and body of the reply to one request."""
        with self.lock:
            self.raw.append(raw)
            self.bodies.append(body)
            number = len(self.bodies)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            held = self.hold_after is not None and number > self.hold_after
        try:
            if held and not self.released.wait(60):
                raise TimeoutError
            other = self.interfere(number, body)
            if other is not None:
                return other
            values = {
                "id": f"chat-{number}",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {"role": "assistant", "content": self.rule.reply(body["messages"])},
                    }
                ],
            }
            if self.usage:
                values["usage"] = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            return 200, {}, values
        finally:
            with self.lock:
                self.at_once -= 1


def text_reply(text, finish_reason="stop"):
    """A reply with this text, for `interfere`."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": finish_reason, "message": message}
    values = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
    return 200, {}, values | {"usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}}


@contextmanager
def chat_server(rule=None):
    """A running server."""
    import time

    server = ChatServer(rule or Rule())

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm, wbufsize = True, -1

        def do_POST(self):
            raw = self.rfile.read(int(self.headers["content-length"]))
            server.times.append(time.monotonic())
            server.headers.append({name.lower(): value for name, value in self.headers.items()})
            status, headers, values = (
                server.answer(json.loads(raw), raw) if self.path == "/v1/chat/completions" else (404, {}, {})
            )
            data = json.dumps(values).encode()
            try:
                self.send_response(status)
                for name, value in {"content-type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                self.wfile.flush()
            except OSError:
                return
            if status == 200:
                with server.lock:
                    server.answered[raw] += 1

        def log_message(self, *_):
            """Quiet."""

    server.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.http.daemon_threads = True
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.released.set()
        server.http.shutdown()
        server.http.server_close()
