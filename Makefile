# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The versions to install, and the extras that tests need besides.
CONSTRAINTS := constraints.txt
EXTRAS := dev
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS)
PLAIN := $(VENV)/.installed-plain
READY := $(VENV)/.installed-$(EXTRAS)
TORCH ?=
$(if $(filter-out cpu,$(TORCH)),$(error TORCH is $(TORCH); it must be cpu, or absent))

.PHONY: demo test quick-tests shuffled-tests test-slow test-gpu test-versions test-lowest release-check mutants lint format docs bench bench-gpu results install clean

# `TORCH=cpu` saves several GB on a machine without a GPU; it counts when the environment is made.
$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH),cpu)
	$(INSTALL) --quiet --quiet --retries 1 --timeout 20 torch torchvision --index-url https://download.pytorch.org/whl/cpu || \
	  echo "make: no CPU build of torch could be had from download.pytorch.org; the plain install takes that of the package index"
endif

$(PLAIN): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(INSTALL) -e .
	touch $(PLAIN)

$(READY): pyproject.toml $(CONSTRAINTS) | $(BIN)/pip
	$(INSTALL) -e '.[$(EXTRAS)]'
	touch $(PLAIN) $(READY)

install: $(READY)

demo: $(PLAIN)
	$(BIN)/dpmi curve --out runs/demo

# Mypy leaves all cores but one idle, so the tests begin beside it. A Ray cluster takes all cores for itself, and is
# tested after the others.
test: $(READY)
	$(MAKE) --jobs=2 lint quick-tests
	$(BIN)/pytest tests/study/test_ray.py

# One process per core, one thread in each: a file's tests stay together, because they share what they trained. Tests
# start dozens of processes, and each would compile the packages again where Python is told to keep no bytecode.
QUICK_TESTS = OMP_NUM_THREADS=1 env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/study/test_ray.py

quick-tests: $(READY)
	$(QUICK_TESTS)

# In a random order of files, which SEED repeats: no file may rest on what another left.
shuffled-tests: SEED := $(shell date +%s)
shuffled-tests: $(READY)
	$(QUICK_TESTS) --shuffle $(SEED)

test-slow: $(READY)
	$(BIN)/pytest -m 'slow and not gpu'

# Only the files that have such tests: the others need extras, and take a GPU's time to collect.
GPU_TESTS = $(shell grep -rl --include='test_*.py' 'mark[.]gpu' tests)

test-gpu: $(READY)
	$(BIN)/pytest -m gpu $(GPU_TESTS)

# Plants faults in copies of the packages, one at a time, and shows which test finds each.
mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m mutants

# The fast tests with the oldest and the newest Python of those on the PATH, each in an environment of its own.
PYTHONS := $(foreach version,3.10 3.11 3.12 3.13 3.14,python$(version))
FOUND = $(strip $(foreach python,$(PYTHONS),$(if $(shell $(python) -c 'print(1)' 2>/dev/null),$(python))))
USED = $(sort $(firstword $(FOUND)) $(lastword $(FOUND)))

test-versions:
	@echo "Python: found $(or $(FOUND),none of $(PYTHONS)); used $(or $(USED),none)"
	@test -n "$(USED)"
	$(foreach python,$(USED),$(MAKE) quick-tests PYTHON=$(python) VENV=$(VENV)-$(notdir $(python)) &&) true

# The fast tests with the lowest versions that pyproject.toml allows; tests of extras are skipped.
test-lowest:
	$(MAKE) quick-tests CONSTRAINTS=constraints-min.txt EXTRAS=test VENV=$(VENV)-lowest

# What a release must pass, besides `make test` and `make test-slow`. It asks the package index, and writes dist/.
release-check: $(READY)
	@test -z "$$(git status --porcelain)" || { git status --short; echo "make: commit these files, or remove them" >&2; exit 1; }
	$(INSTALL) -e '.[dev,release]'
	$(BIN)/pytest -m 'not gpu' tests/packaging
	rm -rf build dist
	$(BIN)/uv build --quiet
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The site, in build/docs/html. A warning is an error; nothing is read from a network.
docs: $(READY)
	$(BIN)/python docs/layout.py build/docs/pages
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -c docs build/docs/pages build/docs/html

bench: $(READY)
	$(BIN)/python -m benchmarks

# On one GPU, in under 8 minutes.
bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu docs/performance
	$(BIN)/python -m benchmarks.gpu.table docs/performance/gpu.json docs/performance.md

results: $(READY)
	for study in linkage-digits linkage-mnist linkage-att linkage-faces94 useful-subclass useful-mnist-100 useful-mnist-600 useful-mnist-6000 useful-mnist-60000 useful-fashion-100 useful-fashion-600 useful-fashion-6000 useful-fashion-60000 useful-omniglot mnist mnist-attacks mnist-clusters faces94 faces94-attacks ablation-mnist att-smoothness attacks-mnist epsilon-mnist attacks-faces robustness-mnist bido-mnist bido-mnist-dp epsilon-mcnn; do \
	  $(BIN)/dpmi run studies/$$study.toml --out docs/results/$$study || exit 1; done
	$(BIN)/dpmi match studies/defenses-mnist.toml --out docs/results/defenses-mnist --accuracy 0.975
	$(BIN)/dpmi run docs/results/defenses-mnist/matched.toml --out docs/results/defenses-mnist
	$(BIN)/dpmi match studies/defenses-att.toml --out docs/results/defenses-att --accuracy 0.88 --tolerance 0.02
	$(BIN)/dpmi run docs/results/defenses-att/matched.toml --out docs/results/defenses-att
	$(BIN)/python docs/results/compare.py
	$(BIN)/python docs/results/linkage.py
	$(BIN)/python docs/results/shrink.py

clean:
	rm -rf $(VENV) $(VENV)-* build dist runs
