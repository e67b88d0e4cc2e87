# Each target sets up .venv by itself. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin
OLDEST := .venv-oldest/bin

.PHONY: help demo test test-unit test-slow test-thorough test-oldest test-deepspeed site check format clean

help:
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

# Less than half of what the tests need.
.venv/demo: pyproject.toml constraints.txt
	@echo 'Installing PyTorch, transformers and what the recipe and its report need into .venv.'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[demo]'
	touch $@

demo: $(if $(wildcard .venv/installed),.venv/installed,.venv/demo) ## train the bundled BERT sentiment recipe, offline, on generated sentences
	@echo 'Training a small BERT on generated reviews. It takes about a minute and a half on 2 cores.'
	$(BIN)/python recipes/bert_sentiment.py

test: .venv/installed ## run the tests, except those marked slow or thorough
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not thorough'

test-unit: .venv/installed ## run the unit tests only, which import no trainer
	$(BIN)/python -m pytest tests/unit -n 2 --dist loadfile -m 'not slow and not thorough'

test-slow: .venv/installed ## run the tests marked slow: processes, ranks, faults, browser, long trainings
	$(BIN)/python -m pytest -n 2 --dist loadfile -m 'slow and not thorough'

test-thorough: .venv/installed ## run the many variations that the other targets leave out
	$(BIN)/python -m pytest -n 2 --dist loadfile -m thorough

.venv-oldest/installed: pyproject.toml constraints-oldest.txt
	test -x $(OLDEST)/python || $(PYTHON) -m venv .venv-oldest
	$(OLDEST)/pip install --disable-pip-version-check -q -c constraints-oldest.txt -e '.[hf,lightning,view]' \
		'jsonargparse[signatures]' optuna pytest pytest-timeout pytest-xdist
	touch $@

# Lightning 2.2 imports pkg_resources, which warns. OLDEST_TESTS=tests/trainers runs more of them; some need arguments, logs
# and event files of recent trainers, or packages that this environment does not have.
OLDEST_TESTS ?= $(addprefix tests/trainers/test_,$(addsuffix .py,amp exits huggingface huggingface_oracle \
	huggingface_resume lightning no_code parity wiring))
test-oldest: .venv-oldest/installed ## run the trainers' main tests with the oldest trainers that pyproject.toml allows
	$(OLDEST)/python -m pytest $(OLDEST_TESTS) \
		-n 2 --dist loadfile -p no:cacheprovider -m 'not slow and not thorough' \
		-W 'ignore:pkg_resources is deprecated:DeprecationWarning' -W 'ignore:Deprecated call to:DeprecationWarning'

# DS_BUILD_OPS=0 compiles nothing during the installation. DeepSpeed compiles its CPU operators on first use: that takes a
# C++ compiler and a minute. A failing installation or compilation fails the target.
.venv/deepspeed: .venv/installed
	DS_BUILD_OPS=0 $(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[deepspeed]'
	touch $@

test-deepspeed: .venv/deepspeed ## install DeepSpeed into .venv and run the ZeRO tests, which skip without it
	DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p no:xdist tests/ranks/test_deepspeed.py \
		'tests/ranks/test_recipe.py::test_recipe_on_ranks_equals_single_process_run[zero2]'

.venv/docs: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt 'mkdocs-material>=9.6' 'mkdocstrings[python]>=1.0'
	touch $@

site: .venv/docs ## build the site of docs/ into site/, and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: .venv/installed ## check format, lint, types and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: .venv/installed ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove virtual environments and caches
	rm -rf site .venv .venv-oldest .mypy_cache .pytest_cache .ruff_cache
