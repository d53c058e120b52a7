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

# What follows `##` is the help.
help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1:\2/p' $(MAKEFILE_LIST) | \
	  awk -F: '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo 'ACCELERATOR=cpu, cuda or tpu; PYTHON=python3.12; ARGS="more flags of the command"'

.PHONY: help quickstart train reproduce study bench stress tpu-compile gpu-compile \
  evidence notebooks test test-full test-pages lint format clean

quickstart: CONFIG = configs/quickstart.py
quickstart: train  ## train a small network on data that are drawn here (minutes)

train: $(INSTALLED)  ## train CONFIG=configs/net6b.py; again to resume
	$(RUN) -m cifar_flax.main --config $(CONFIG) $(ARGS)

reproduce: $(INSTALLED)  ## train published and tuned configs, five seeds each
	$(RUN) -m cifar_flax reproduce $(ARGS)

study: $(INSTALLED)  ## compare the types of convolution (hours)
	$(RUN) -m cifar_flax study $(ARGS)

# NETS=net6b,net6a PEERS=ours,torch TABLES=1,2 WINDOWS=6 DATA=DIR DTYPE= OUTPUT=FILE.md
bench: $(VENV)/peers-installed  ## compare speed with PyTorch and Keras
	$(RUN) -m benchmarks $(if $(NETS),--nets=$(NETS)) $(if $(PEERS),--peers=$(PEERS)) \
	  $(if $(TABLES),--tables=$(TABLES)) $(if $(WINDOWS),--windows=$(WINDOWS)) \
	  $(if $(DATA),--data=$(DATA)) $(if $(DTYPE),--dtype=$(DTYPE)) \
	  $(if $(OUTPUT),--output=$(OUTPUT)) $(ARGS)

# KILLS=200 ONLY=kills,damage OUTPUT=FILE.md; without ONLY, tpu-compile as well
stress: $(INSTALLED)  ## kill, damage and starve small runs, and compare
	$(RUN) -m stress $(if $(KILLS),--kills=$(KILLS)) $(if $(ONLY),--only=$(ONLY)) \
	  $(if $(OUTPUT),--output=$(OUTPUT))
	$(if $(ONLY),,@$(MAKE) --no-print-directory tpu-compile)

# These compile for devices without having one; each compiler has an environment of its
# own, as it complains at every start of JAX where there is no such device.
# CONFIGS= TOPOLOGIES=
tpu-compile:  ## compile every config for TPUs without having one
	@$(MAKE) --no-print-directory VENV=.venv-tpu .venv-tpu/tpu-compiler-installed
	.venv-tpu/bin/python -m benchmarks.tpu_compile \
	  $(if $(CONFIGS),--configs=$(CONFIGS)) $(if $(TOPOLOGIES),--topologies=$(TOPOLOGIES))

# CONFIGS= TARGETS=h100,a100 DEVICES=1,8 DTYPES=float32,bfloat16
gpu-compile:  ## compile every config for GPUs without having one
	@$(MAKE) --no-print-directory VENV=.venv-gpu .venv-gpu/gpu-compiler-installed
	.venv-gpu/bin/python -m benchmarks.gpu_compile \
	  $(if $(CONFIGS),--configs=$(CONFIGS)) $(if $(TARGETS),--targets=$(TARGETS)) \
	  $(if $(DEVICES),--devices=$(DEVICES)) $(if $(DTYPES),--dtypes=$(DTYPES))

evidence: $(INSTALLED)  ## write tables and pictures from results/
	$(RUN) -m cifar_flax.tools.evidence $(ARGS)

notebooks: $(INSTALLED)  ## execute the notebooks and save their outputs (minutes)
	$(VENV)/bin/jupyter-execute --inplace notebooks/*.ipynb

test: $(INSTALLED)  ## the tests (ten to twenty minutes on two cores)
	$(RUN) -m pytest -n 2 -m "not full and not pages" $(ARGS)

test-full: $(INSTALLED)  ## the tests and the long checks
	$(RUN) -m pytest -n 2 $(ARGS)

# Needs Chromium (apt-get install chromium). SCREENSHOTS=DIR keeps pictures of the pages.
test-pages: $(VENV)/pages-installed  ## look at reports in Chromium
	$(RUN) -m pytest -n 0 -m pages tests/tools/test_pages.py $(ARGS)

lint: $(INSTALLED)  ## ruff and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(INSTALLED)  ## format the code
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

$(VENV)/pages-installed: $(INSTALLED)
	$(call install,pages)

$(VENV)/tpu-compiler-installed: $(INSTALLED)
	$(call install,libtpu)

$(VENV)/gpu-compiler-installed: $(INSTALLED)
	$(call install,gpu-compiler)

ifeq ($(filter cpu cuda tpu,$(ACCELERATOR)),)
$(error ACCELERATOR=$(ACCELERATOR): must be cpu, cuda or tpu)
endif

clean:  ## remove the environments
	rm -rf $(VENV) .venv-tpu .venv-gpu
