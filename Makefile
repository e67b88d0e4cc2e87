# Each target sets up .venv by itself. PYTHON chooses the interpreter.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test check format clean

help:
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/installed ## train the bundled BERT sentiment recipe, offline, on generated sentences
	$(BIN)/python recipes/bert_sentiment.py

test: .venv/installed ## run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/installed ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed ## rewrite the code in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv and caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
