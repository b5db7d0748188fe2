"""The examples of serving run as they stand, the load test with fewer requests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "examples" / "serving"


def run(name, *words):
    command = [sys.executable, str(FOLDER / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def test_the_client_asks_a_server_that_it_starts():
    done = run("client.py")
    assert done.returncode == 0, done.stderr
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert lines["kept"] == "['kitchen', 'boiler', 'bicycles']" and "found" in lines and "openai" in lines


@pytest.mark.slow
def test_many_clients_get_the_answers_that_each_would_get_alone(tmp_path):
    done = run("load.py", "--clients", 16, "--requests", 200, "--json", tmp_path / "result.json")
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["answered"] + result["cancelled"] == 200 and result["cancelled"] > 0
    assert result["wrong"] == result["failed"] == result["still_under_way"] == 0


def test_the_compose_file_names_what_the_server_and_vllm_take():
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    from clara_model.cli.main import _parser

    entry = (FOLDER / "Dockerfile").read_text().rpartition("ENTRYPOINT ")[2]
    words = [*json.loads(entry)[1:], *services["clara"]["command"]]
    args = _parser().parse_args(words)
    assert args.engine_url == "http://engine:8000" and args.host == "0.0.0.0"
    assert "--enable-prompt-embeds" in services["engine"]["command"] and "ports" not in services["engine"]
