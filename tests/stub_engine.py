"""vLLM's server as far as an engine is asked, on loopback, over real HTTP: it writes with an exported generator.

`fault` answers a request in its place; `seconds` is what it waits for before each piece, `before` is called first.
"""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class StubEngine:
    """What it serves, what it was asked, and how it fails."""

    def __init__(self, folder, name=None, key=None):
        self.model = AutoModelForCausalLM.from_pretrained(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.name = name or self.model.config.clara_generator
        self.key, self.seconds, self.fault, self.before = key, 0.0, None, lambda: None
        self.bodies, self.left = [], threading.Event()
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.http.server_port}"

    @torch.no_grad()
    def ids(self, body):
        """What the generator writes for a request, and how likely it found each token."""
        if "prompt_embeds" in body:
            tensor = torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)
            inputs = {"inputs_embeds": tensor[None].to(self.model.dtype)}
        else:
            inputs = {"input_ids": torch.tensor([body["prompt"]])}
        options = {"do_sample": False, "max_new_tokens": body["max_tokens"]}
        options |= {"output_scores": True, "output_logits": True, "return_dict_in_generate": True}
        if "logit_bias" in body:
            options["sequence_bias"] = [[[int(token)], bias] for token, bias in body["logit_bias"].items()]
        if "stop" in body:
            options |= {"stop_strings": body["stop"], "tokenizer": self.tokenizer}
        with self.lock:
            made = self.model.generate(
                **inputs, attention_mask=torch.ones(next(iter(inputs.values())).shape[:2]), **options
            )
        new = made.sequences[0, -len(made.scores) :].tolist()
        all_logs = [torch.log_softmax(scores[0].float(), -1) for scores in made.logits]
        likeliest = [one.topk(body["logprobs"]) for one in all_logs]
        tops = [{f"token_id:{t}": v for v, t in zip(*map(torch.Tensor.tolist, one), strict=True)} for one in likeliest]
        return new, [float(one[token]) for one, token in zip(all_logs, new, strict=True)], tops


def choice(ids, logs, tops, reason):
    logprobs = {"token_logprobs": logs, "top_logprobs": tops if tops[0] else None}
    return {"index": 0, "text": "x", "token_ids": ids, "logprobs": logprobs, "finish_reason": reason}


@contextmanager
def stub_engine(folder, **options):
    """A running server."""
    stub = StubEngine(folder, **options)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm, wbufsize = True, -1

        def do_GET(self):
            if not self.refused():
                self.reply(200, {"object": "list", "data": [{"id": stub.name, "object": "model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            stub.bodies.append(body)
            try:
                self.answered(body)
            except OSError:  # the client has left
                stub.left.set()

        def refused(self):
            if stub.key and self.headers["authorization"] != f"Bearer {stub.key}":
                self.reply(401, {"error": "Unauthorized"})
                return True
            return False

        def answered(self, body):
            if self.refused():
                return
            if stub.fault is not None:
                return stub.fault(self, body)
            if body["model"] != stub.name:
                return self.reply(404, {"error": {"message": f"The model {body['model']} does not exist."}})
            stub.before()
            ids, logs, tops = stub.ids(body)
            reason = "length" if len(ids) == body["max_tokens"] and ids[-1] != stub.tokenizer.eos_token_id else "stop"
            if not body.get("stream"):
                time.sleep(stub.seconds)
                return self.reply(200, {"choices": [choice(ids, logs, tops, reason)]})
            self.start_stream()
            for place, (one, log, top) in enumerate(zip(ids, logs, tops, strict=True)):
                time.sleep(stub.seconds)
                last = reason if place == len(ids) - 1 else None
                self.piece({"choices": [choice([one], [log], [top], last)]})
            self.end_stream()

        def start_stream(self):
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()

        def piece(self, values):
            data = f"data: {values if isinstance(values, str) else json.dumps(values)}\n\n".encode()
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def end_stream(self):
            self.piece("[DONE]")
            self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()

        def reply(self, status, values):
            data = values if isinstance(values, bytes) else json.dumps(values).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()

        def log_message(self, *_):
            """Quiet."""

    stub.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.http.daemon_threads = True
    threading.Thread(target=stub.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield stub
    finally:
        stub.http.shutdown()
        stub.http.server_close()
