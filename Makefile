# `make` lists the targets. Variables: ENGINE, PYTHON, VENV, PIP_FLAGS, NEED_GB (scripts/check_machine.sh).
VENV ?= .venv
PIP_FLAGS ?=
ENGINE ?= qwen2.5-coder-1.5b-instruct
bin = $(VENV)/bin
docs = README.md $(wildcard docs/*.md)
export VENV PIP_FLAGS PYTHON NEED_GB

.DEFAULT_GOAL = help
.PHONY: help demo test lint fix docs bench clean

help:  ## list the targets
	@grep -E '^[a-z]+:.*## ' Makefile | awk -F ':.*## ' '{ printf "make %-6s %s\n", $$1, $$2 }'

demo: $(VENV)/.installed  ## install, then the whole pipeline on the shipped example (ENGINE=name: another engine)
	@$(bin)/lite-interp models fetch smollm2-135m-instruct all-minilm-l6-v2 $(ENGINE)
	@$(bin)/lite-interp demo --engine $(ENGINE) --results demo.db

test: $(VENV)/.installed-dev  ## run the tests (ARGS="-k word": some of them)
	@$(bin)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev  ## check format, style, types, generated docs, spelling
	$(bin)/ruff format --check .
	$(bin)/ruff check .
	$(bin)/pyright --pythonpath $(bin)/python
	$(bin)/cog --check $(docs)
	$(bin)/codespell

fix: $(VENV)/.installed-dev docs  ## mend what a machine can mend
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

docs: $(VENV)/.installed-dev  ## write the generated parts of the docs
	$(bin)/cog -r $(docs)

bench: $(VENV)/.installed-dev  ## measure the budgets on this machine
	$(bin)/python bench/stages.py --engine $(ENGINE)
	$(bin)/python bench/engine.py --model $(ENGINE)

clean:  ## remove what was built; results and models stay
	if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Editable, so that only these two files ask for an installation.
$(VENV)/.installed: pyproject.toml constraints.txt
	@sh scripts/install.sh .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt
	@sh scripts/install.sh '.[dev]'
	@touch $(VENV)/.installed $@
