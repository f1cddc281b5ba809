# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.PHONY: demo test quick-tests test-slow test-gpu mutants lint format docs bench bench-gpu results install clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

install: $(READY)

demo: $(READY)
	$(BIN)/dpmi curve --out runs/demo

# Mypy leaves all cores but one idle, so the tests begin beside it. A Ray cluster takes all cores for itself, and is
# tested after the others.
test: $(READY)
	$(MAKE) --jobs=2 lint quick-tests
	$(BIN)/pytest tests/study/test_ray.py

# One process per core, one thread in each: a file's tests stay together, because they share what they trained. Tests
# start dozens of processes, and each would compile the packages again where Python is told to keep no bytecode.
quick-tests: $(READY)
	OMP_NUM_THREADS=1 env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder --ignore tests/study/test_ray.py

test-slow: $(READY)
	$(BIN)/pytest -m 'slow and not gpu'

# Only the files that have such tests: the others need extras, and take a GPU's time to collect.
GPU_TESTS = $(shell grep -rl --include='test_*.py' 'mark[.]gpu' tests)

test-gpu: $(READY)
	$(BIN)/pytest -m gpu $(GPU_TESTS)

# Plants faults in copies of the packages, one at a time, and shows which test finds each.
mutants: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m mutants

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
	rm -rf $(VENV) runs
