# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
ACCELERATOR ?= cpu
CONFIG ?= configs/net6a.py
ARGS ?=
VENV ?= .venv
RUN = $(VENV)/bin/python
# cuda and tpu are extras; constraints pin what was tested, per Python version.
EXTRAS = dev$(if $(filter-out cpu,$(ACCELERATOR)),$(comma)$(ACCELERATOR))
comma := ,
INSTALLED = $(VENV)/installed-$(ACCELERATOR)

.PHONY: quickstart train reproduce test test-full lint format clean

quickstart: CONFIG = configs/quickstart.py
quickstart: train

train: $(INSTALLED)
	$(RUN) -m cifar_flax.main --config $(CONFIG) $(ARGS)

reproduce: $(INSTALLED)
	$(RUN) -m cifar_flax.reproduce $(ARGS)

test: $(INSTALLED)
	$(RUN) -m pytest -n 2 -m "not full" $(ARGS)

test-full: $(INSTALLED)
	$(RUN) -m pytest -n 2 $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

$(INSTALLED): pyproject.toml constraints/*.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: needs Python >= 3.11; name one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check \
	  --constraint constraints/py$$($(RUN) -c 'import sys; print("%d%d" % sys.version_info[:2])').txt \
	  --editable '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV)
