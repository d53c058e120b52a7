# Two commands do everything: `make quickstart` and `make test`.
PYTHON ?= python3
CONFIG ?= configs/net6a.py
ARGS ?=
VENV ?= .venv
# cpu, cuda or tpu: which JAX; what is installed already unless told otherwise.
ACCELERATOR ?= $(or $(patsubst $(VENV)/installed-%,%,$(firstword \
  $(wildcard $(VENV)/installed-*))),cpu)
RUN = $(VENV)/bin/python
comma := ,
EXTRAS = dev$(addprefix $(comma),$(filter-out cpu,$(ACCELERATOR)))
INSTALLED = $(VENV)/installed-$(ACCELERATOR)

.PHONY: quickstart train reproduce study bench stress tpu-compile notebooks test test-full lint \
  format clean

quickstart: CONFIG = configs/quickstart.py
quickstart: train

train: $(INSTALLED)
	$(RUN) -m cifar_flax.main --config $(CONFIG) $(ARGS)

reproduce: $(INSTALLED)
	$(RUN) -m cifar_flax reproduce $(ARGS)

study: $(INSTALLED)
	$(RUN) -m cifar_flax study $(ARGS)

# NETS=net6b,net6a PEERS=ours,torch TABLES=1,2 WINDOWS=6 DATA=DIR DTYPE= OUTPUT=FILE.md
bench: $(VENV)/peers-installed
	$(RUN) -m benchmarks $(if $(NETS),--nets=$(NETS)) $(if $(PEERS),--peers=$(PEERS)) \
	  $(if $(TABLES),--tables=$(TABLES)) $(if $(WINDOWS),--windows=$(WINDOWS)) \
	  $(if $(DATA),--data=$(DATA)) $(if $(DTYPE),--dtype=$(DTYPE)) \
	  $(if $(OUTPUT),--output=$(OUTPUT)) $(ARGS)

# KILLS=200 ONLY=kills,damage OUTPUT=FILE.md; without ONLY, tpu-compile as well
stress: $(INSTALLED)
	$(RUN) -m stress $(if $(KILLS),--kills=$(KILLS)) $(if $(ONLY),--only=$(ONLY)) \
	  $(if $(OUTPUT),--output=$(OUTPUT))
	$(if $(ONLY),,@$(MAKE) --no-print-directory tpu-compile)

# Compiles for TPUs without having one; the compiler has an environment of its own, as
# it complains at every start of JAX where there is no TPU. CONFIGS= TOPOLOGIES=
tpu-compile:
	@$(MAKE) --no-print-directory VENV=.venv-tpu .venv-tpu/tpu-compiler-installed
	.venv-tpu/bin/python -m benchmarks.tpu_compile \
	  $(if $(CONFIGS),--configs=$(CONFIGS)) $(if $(TOPOLOGIES),--topologies=$(TOPOLOGIES))

notebooks: $(INSTALLED)
	$(VENV)/bin/jupyter-execute --inplace notebooks/*.ipynb

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

# $(call install,EXTRAS): this project with them, in the tested versions if there are.
define install
@version=$$($(RUN) -c 'import sys; print("%d%d" % sys.version_info[:2])'); \
file=constraints/py$$version.txt; \
if [ ! -f $$file ]; then \
  echo "note: $$file is not there: newest versions, not the tested ones"; \
  file=/dev/null; \
fi; \
echo "installing [$(1)] into $(VENV), a few minutes once"; \
$(RUN) -m pip install --quiet --disable-pip-version-check --constraint $$file \
  --editable '.[$(1)]'
@touch $@
endef

$(INSTALLED): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: needs Python >= 3.11; name one: make PYTHON=python3.12'; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(call install,$(EXTRAS))

$(VENV)/peers-installed: $(INSTALLED)
	$(call install,bench)

$(VENV)/tpu-compiler-installed: $(INSTALLED)
	$(call install,libtpu)

ifeq ($(filter cpu cuda tpu,$(ACCELERATOR)),)
$(error ACCELERATOR=$(ACCELERATOR): must be cpu, cuda or tpu)
endif

clean:
	rm -rf $(VENV) .venv-tpu
