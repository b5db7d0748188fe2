"""The hub as far as a repository is made and files are sent to it, on loopback, over real HTTP.

Weights go by the protocol of large files, as the hub asks of them; everything else stands in the commit.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"


class Hub:
    """What it holds: files by repository and path, and whether a repository is private."""

    def __init__(self):
        self.files, self.visibility, self.large = {}, {}, {}


@contextmanager
def hub_server():
    """The hub, and its address."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.body()
            if self.headers["authorization"] != f"Bearer {TOKEN}":
                return self.reply(401, {"error": "Invalid username or password."})
            words = self.path.split("?")[0].strip("/").split("/")
            if words == ["api", "repos", "create"]:
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if name in hub.files:
                    return self.reply(409, {"error": "You already created this model repo", "url": f"{url}/{name}"})
                hub.files[name], hub.visibility[name] = {}, asked.get("visibility")
                return self.reply(200, {"url": f"{url}/{name}", "id": name})
            if words[-4:] == ["info", "lfs", "objects", "batch"]:
                objects = [
                    {**one, "actions": {"upload": {"href": f"{url}/large/{one['oid']}"}}}
                    for one in json.loads(body)["objects"]
                ]
                return self.reply(200, {"transfer": "basic", "objects": objects})
            name = "/".join(words[2:4])
            if words[4] == "preupload":
                modes = [
                    {"path": one["path"], "shouldIgnore": False, "uploadMode": mode}
                    for one in json.loads(body)["files"]
                    for mode in ["lfs" if one["path"].endswith(".safetensors") else "regular"]
                ]
                return self.reply(200, {"files": modes})
            assert words[4] == "commit", self.path
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    hub.files[name][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    hub.files[name][value["path"]] = hub.large[value["oid"]]
            address = f"{url}/{name}/commit/0123456789abcdef0123456789abcdef01234567"
            return self.reply(200, {"commitUrl": address, "commitOid": address[-40:], "success": True})

        def do_PUT(self):
            body = self.body()
            assert hashlib.sha256(body).hexdigest() == self.path.rpartition("/")[2]
            hub.large[self.path.rpartition("/")[2]] = body
            self.reply(200, {})

        def body(self):
            if "chunked" not in self.headers.get("transfer-encoding", ""):
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)

        def reply(self, status, values):
            data = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub, url
    finally:
        server.shutdown()
        server.server_close()
