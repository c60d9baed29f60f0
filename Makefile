# Every target makes .venv from nothing when it has to; none needs more than the package index.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false

.PHONY: pocket demo test test-all check format golden transcript bench decisions training ranks clean

# torch comes first and alone: other packages would pull a build of several gigabytes.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[chat,training]"
	touch $@

.venv/installed-development: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[chat,plots,training,test,development]"
	touch $@

demo: .venv/installed
	$(BIN)/adaptive-moe demo

# Two workers of one thread each are the fastest on two cores; a file's tests stay together. Checks of
# types in the other packages would cost a third of the time: `test-all` has them.
CHECKED := models training integration engine measures
EMPTY :=
SPACE := $(EMPTY) $(EMPTY)
test: .venv/installed-development
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not gpu" --numprocesses 2 --dist loadfile \
	  --jaxtyping-packages=$(subst $(SPACE),,$(CHECKED:%=adaptive_moe.%,))beartype.beartype

test-all: .venv/installed-development
	$(BIN)/pytest

check: .venv/installed-development
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m adaptive_moe.pocket check

format: .venv/installed-development
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Rewrite tests/golden; look at the difference before it is committed.
golden: .venv/installed-development
	$(BIN)/pytest -m golden --update-golden

# Tell the demo anew into docs/demo.md (two minutes), which a slow test compares with.
transcript: .venv/installed
	$(BIN)/adaptive-moe demo --transcript docs/demo.md

# Fill the Runtime table and write docs/performance.md from it (about 20 minutes on two idle cores).
# Without --minutes rounds go on until every interval is narrow. BENCH_OPTIONS="--device cuda"
# measures on CUDA, with a model of 1.2 billion parameters too.
BENCH_OPTIONS ?= --minutes 8
bench: .venv/installed
	mkdir -p build
	$(BIN)/python benchmarks/runtime.py $(BENCH_OPTIONS) > build/bench.json
	$(BIN)/python -m adaptive_moe.experiments.performance_page build/bench.json docs/performance.md

# Fill the Decisions table and write docs/decisions.md from it (about half an hour on two cores).
# The peer, lm-polygraph, gets an environment of its own: nothing here may depend on what it needs.
build/polygraph/installed: constraints.txt
	test -x build/polygraph/bin/python || $(PYTHON) -m venv build/polygraph
	build/polygraph/bin/python -m pip install --quiet torch==2.13.0
	build/polygraph/bin/python -m pip install --quiet --constraint constraints.txt lm-polygraph==0.7.0
	touch $@

DECISIONS_OPTIONS ?=
decisions: .venv/installed build/polygraph/installed
	$(BIN)/python benchmarks/decisions.py --polygraph build/polygraph/bin/python \
	  $(DECISIONS_OPTIONS) > build/decisions.json
	$(BIN)/python -m adaptive_moe.experiments.decisions_page build/decisions.json docs/decisions.md

# Fill the Training table and write docs/training.md from it (about an hour). The peers are
# transformers' Trainer and trl's SFTTrainer. What is meant for a GPU is measured there by
# benchmarks/training.py --device cuda --part packed-sweep; the page takes that file after the first.
training: .venv/installed
	mkdir -p build
	$(BIN)/python -m pip install --quiet --constraint constraints.txt trl
	$(BIN)/python benchmarks/training.py > build/training.json
	$(BIN)/python -m adaptive_moe.experiments.training_page build/training.json docs/training.md

# Compare rank strategies and write docs/ranks.md (over an hour on two cores). Stopped and started
# again, it goes on with the runs that build/ranks.jsonl lacks. With RANKS_OPTIONS="--device cuda" runs
# go side by side on a GPU.
RANKS_OPTIONS ?= --workers 2
ranks: .venv/installed
	mkdir -p build
	$(BIN)/python benchmarks/ranks.py build/ranks.jsonl $(RANKS_OPTIONS)
	$(BIN)/python -m adaptive_moe.experiments.ranks_page build/ranks.jsonl docs/ranks.md

# Rebuild the pocket model and its router from the facts (about an hour on two cores).
pocket: .venv/installed
	$(BIN)/python -m adaptive_moe.pocket build
	$(BIN)/python -m adaptive_moe.pocket evaluate
	mkdir -p build
	$(BIN)/python -m adaptive_moe.pocket questions build/known.jsonl --wordings 2
	$(BIN)/adaptive-moe router train build/known.jsonl --base pocket --output adaptive_moe/pocket/model/router

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
