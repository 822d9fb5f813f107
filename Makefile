# Two commands: `make demo` segments an example photo, `make test` runs the tests. Both need Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow lint docs benchmark results mutants clean

demo: $(READY)
	$(BIN)/ovseg segment examples/cat.jpg cat wall --out out

# a process a core, as most tests use one; the slow tests measure memory and time, so they run one by one
test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy ovseg

# The site of docs/, in site/; any doubt about it is an error
docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

benchmark: $(READY)
	$(BIN)/python evaluation/peers/speed.py
	$(BIN)/python evaluation/peers/evaluation_speed.py
	$(BIN)/python evaluation/peers/sam_speed.py

DATA ?= ../shared/data
results: $(READY)
	$(BIN)/python tools/results.py $(DATA)

# make mutants FILE=ovseg/pipeline/decide.py: small changes of the file that no test notices
mutants: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'cosmic-ray>=8.3'
	$(BIN)/python tools/mutants.py $(FILE)

$(READY): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) out site
