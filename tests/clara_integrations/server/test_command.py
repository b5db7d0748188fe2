"""`clara serve` in a process of its own: it starts, drains on SIGTERM, and shares a store with a second one."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
import small_model

from clara_model.cli import main as cli


@contextmanager
def serving(*words, **environment):
    """A process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "clara_model.cli.main", "serve", "--port", str(port), *map(str, words)]
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, process.stdout.read()
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield process, url
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("host", ["203.0.113.7", "a..b"])
def test_an_address_that_is_none_is_one_sentence_before_anything_is_loaded(host, tmp_path, capsys):
    assert cli.main(["serve", "--host", host, "--model", str(tmp_path / "not there"), "--api-key", "k"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"cannot listen at '{host}', port 8080: " in said and "give --host an address of this machine" in said


def test_a_port_that_is_taken_is_one_sentence(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 2
    assert f"port {port}: Address already in use" in " ".join(capsys.readouterr().err.split())


def test_no_page_of_another_name_may_ask_and_sigterm_lets_what_is_under_way_end(tiny_clara_folder):
    body = {"messages": [{"role": "user", "content": "Who came?"}], "documents": small_model.TEXTS, "max_tokens": 1000}
    with serving("--model", tiny_clara_folder, "--dtype", "float32") as (process, url), ThreadPoolExecutor(1) as pool:
        assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example"}).status_code == 400
        assert httpx.get(f"{url}/v1/models", headers={"host": "localhost:1234"}).status_code == 200
        asked = pool.submit(httpx.post, f"{url}/v1/chat/completions", json=body, timeout=60)
        while "clara_requests_under_way 1.0" not in httpx.get(f"{url}/metrics").text:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        answer = asked.result()
        assert answer.status_code == 200 and answer.json()["usage"]["completion_tokens"] > 100
        assert process.wait(20) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
        told = process.stdout.read()
        assert f"at {url} (the page, /docs, /metrics)" in told and "Traceback" not in told


def test_two_processes_share_a_store_and_a_key_of_the_environment(tmp_path):
    words = ("--model", "clara-tiny", "--store", tmp_path / "store", "--dtype", "float32", "--quiet")
    key = {"authorization": "Bearer k"}
    with serving(*words, CLARA_API_KEY="k") as (_, one), serving(*words, CLARA_API_KEY="k") as (_, other):
        added = {"documents": [{"id": "a", "text": "Ranvun Mepos was born in Jiwas."}]}
        assert httpx.post(f"{one}/v1/documents", json=added).status_code == 401
        assert httpx.post(f"{one}/v1/documents", json=added, headers=key, timeout=60).json()["compressed"] == 1
        asked = {"messages": [{"role": "user", "content": "Where was Ranvun Mepos born?"}], "store": True}
        answer = httpx.post(f"{other}/v1/chat/completions", json=asked, headers=key, timeout=60).json()
        assert answer["choices"][0]["message"]["content"] == "Jiwas"


def test_a_time_that_is_none_is_refused(capsys):
    assert cli.main(["serve", "--timeout", "0"]) == 2
    assert capsys.readouterr().err == "clara: --timeout must be above 0, got 0.0\n"


def test_a_port_that_is_none_is_said_before_anything_is_loaded(capsys):
    for word in ("99999", "http", "-1"):
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", f"--port={word}", "--model", "nowhere"])
        assert ended.value.code == 2 and f"must be a port from 0 to 65535, got '{word}'" in capsys.readouterr().err
