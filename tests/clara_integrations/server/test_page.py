"""The page at `/` in a real browser: a question is typed and asked, and what comes back is shown.

Headless Chromium is driven over its own protocol; skipped where it is not installed. ``CLARA_SCREENSHOT=FILE`` keeps a
picture of the end.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
websockets = pytest.importorskip("websockets.sync.client")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium here; apt-get install chromium")


class Page:
    """A page of the browser."""

    def __init__(self, connection):
        self._connection, self._number = connection, 0

    def call(self, method, **params):
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while (answer := json.loads(self._connection.recv(timeout=60))).get("id") != self._number:
            pass
        return answer["result"]

    def run(self, script):
        """The value of an expression."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script, seconds=60):
        until = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"{script} has not come true: {self.run('document.body.innerText')}"
            time.sleep(0.05)
        return value


@contextmanager
def browser(url, folder):
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    more = [f"--user-data-dir={folder}", "--window-size=900,1000", "--no-first-run", url]
    process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr:
            if found := re.search(r"listening on ws://([\d.:]+)/", line):
                break
        pages = []
        for _ in range(100):
            pages = [one for one in httpx.get(f"http://{found[1]}/json").json() if one["url"].startswith(url)]
            if pages:
                break
            time.sleep(0.1)
        with websockets.connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as connection:
            yield Page(connection)
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def fill(page, name, text):
    page.run(f"document.getElementById({json.dumps(name)}).value = {json.dumps(text)}")


def test_a_question_is_answered_with_its_passages_scores_and_what_was_saved(url, tiny, tmp_path):
    texts = ["Ponwis Kilos was born in Tenga.", "Ranvun Mepos was born in Jiwas. <b>He</b> was a sailor."]
    texts = [" ".join([text] * 4) for text in texts]
    question = "Where was Ranvun Mepos born?"
    own = tiny.answer(question, texts, 2)
    with browser(url, tmp_path / "profile") as page:
        page.wait_for("document.getElementById('model')?.textContent === 'clara-tiny'")
        fill(page, "question", question)
        fill(page, "documents", "\n\n".join(texts))
        fill(page, "top", "2")
        page.run("document.getElementById('ask').click()")
        note = page.wait_for(
            "/slots/.test(document.getElementById('note').textContent) && document.getElementById('note').textContent"
        )
        assert page.run("document.getElementById('answer').textContent") == own.text == "Jiwas"
        assert re.match(rf"\d+ tokens of text were read as {own.usage.slots} slots", note)
        shown = page.run("[...document.querySelectorAll('#passages li')].map(one => one.textContent)")
        assert "<b>He</b>" in shown[0] and f"{own.ranking[0].score:.3f}" in shown[0], "markup of a document is text"
        fill(page, "question", " ")
        page.run("document.getElementById('question').required = false; document.getElementById('ask').click()")
        assert "the question is blank" in page.wait_for(
            "document.getElementById('note').className === 'bad' && document.getElementById('note').textContent"
        )
        if name := os.environ.get("CLARA_SCREENSHOT"):
            fill(page, "question", question)
            page.run("document.getElementById('ask').click()")
            page.wait_for("/slots/.test(document.getElementById('note').textContent)")
            with open(name, "wb") as file:
                file.write(base64.b64decode(page.call("Page.captureScreenshot", format="png")["data"]))
