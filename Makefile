# Everything that is done to this repository. `make` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SERVER := $(VENV)/.server
TOOLS  := $(VENV)/.tools
PINNED := constraints.txt tools/pip.txt pyproject.toml clients/python/pyproject.toml
BUF    := .tools/node_modules/.bin/buf
# Tools of the environment come before those of the machine: buf runs its plugins by name.
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/.tools/bin:$(PATH)
# Some images set it. Without bytecode, each start of a server compiles its modules again: 3 s of CPU.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo run test clients page page-check licenses conformance check format lint types imports protos tree gen bench bench-full gateways llama-cpp chat-local guard fuzz image helm catalog constraints release clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(TOOLS) ## Install the server and all tools into .venv, pinned; nothing to do the second time

$(SERVER): $(PINNED)
	@tools/setup.sh "$(PYTHON)" "$(VENV)" server
	@touch $@

$(TOOLS): $(PINNED)
	@tools/setup.sh "$(PYTHON)" "$(VENV)" tools
	@touch $(SERVER) $@

demo: $(SERVER) ## See a reply stream, break, resume and be cancelled, without any key
	@$(BIN)/python -m parley_server.cli.demo

run: $(SERVER) ## Run the server on 127.0.0.1:50051
	@$(BIN)/parley serve

chat-local: $(SERVER) ## Chat with a small real model on this machine, without any key (200 MB, downloaded once)
	@tools/llama_cpp.sh $(BIN)/python
	@$(BIN)/python -m tools.chat_local

test: setup $(if $(ARGS),,clients) ## Run the tests, of all clients too; ARGS="tests/unit -k log" chooses some
	@$(BIN)/python -m pytest -n 4 --dist loadgroup $(ARGS)

clients: setup ## Build the Node and the Java client, the examples and the chat page, where Node and Maven are found
	@tools/clients.sh build node java
	@tools/page.sh build

page: ## Build the chat page again, and its copy that `parley serve --ui` serves
	@tools/page.sh copy

page-check: ## Is that copy the build of examples/page? `make test` runs the page's own checks and tests
	@tools/page.sh check

conformance: clients ## Play the conformance cases through all clients; CASE="resume" chooses
	@$(BIN)/python -m pytest -n 4 --dist loadgroup tests/conformance $(if $(CASE),-k "$(CASE)")

check: format lint types imports protos tree page-check test ## Everything that must pass before a commit

format: setup ## Is the code formatted? (`.venv/bin/ruff format` does it)
	@$(BIN)/ruff format --check .

lint: setup ## Look for faults with ruff
	@$(BIN)/ruff check .

types: setup ## Check types with mypy --strict
	@$(BIN)/mypy
	@for each in negotiate roleplay; do MYPYPATH=examples/$$each $(BIN)/mypy examples/$$each/*.py || exit 1; done

imports: setup ## Check that imports go one way
	@$(BIN)/lint-imports

protos: setup $(BUF) ## Lint the protos; check that the committed stubs match them
	@$(BUF) lint
	@tools/check_generated.sh . $(BUF) clients/python/src/parley/v1

tree: setup ## Look for addresses and paths that belong to one machine
	@$(BIN)/python tools/check_tree.py

licenses: setup ## List the licences of all packages; fails for one that is not allowed (tools/licenses.py)
	@$(BIN)/python -m tools.licenses

gen: setup $(BUF) ## Generate code from the protos
	@$(BUF) generate
	@if [ -d clients/node/node_modules ]; then npm --prefix clients/node run --silent generate; fi

$(BUF): tools/buf.sh
	@tools/buf.sh

bench: setup ## Run the benchmarks in their short form, 5 minutes; docs/benchmarks.md says what they measure
	@$(BIN)/python -m benchmarks.dialects
	@$(BIN)/python -m benchmarks.access
	@$(BIN)/python -m benchmarks.access_cost
	@$(BIN)/python -m benchmarks.run $(if $(ARGS),$(ARGS),--short)

bench-full: setup gateways ## Run them in full, with gateways of others: half an hour; ARGS=--write-docs keeps the results
	@$(BIN)/python -m benchmarks.run $(ARGS)

gateways: ## Install those gateways into .tools/
	@tools/gateways.sh "$(PYTHON)"

llama-cpp: setup ## Install llama.cpp and a small model into .tools/, for the tests of a real model server
	@tools/llama_cpp.sh $(BIN)/python

guard: setup ## Has the CPU per token or per reply risen, compared with a bare server? One minute
	@$(BIN)/python -m benchmarks.guard

fuzz: setup ## Send 20,000 calls made from the descriptors, half to each database; CALLS=100000 for more. Minutes
	@PARLEY_FUZZ_CALLS=$(or $(CALLS),20000) $(BIN)/python -m pytest -q -s tests/integration/process/test_fuzz.py

image: ## Build the container image parley:latest, with docker or buildah; BASE=IMAGE chooses its base
	@tools/image.sh build parley:latest $(ARGS)

helm: setup ## Install Helm (compiled, minutes) and schemas of Kubernetes, for the tests of the chart
	@tools/helm.sh
	@tools/helm.sh schemas $(BIN)/python

catalog: setup ## Write the model catalog again, with the prices of the installed genai-prices
	@$(BIN)/python -m tools.catalog

UPGRADE ?= --upgrade
constraints: ## Renew constraints.txt with the newest versions that fit together; UPGRADE= keeps those that are pinned
	@tools/constraints.sh "$(PYTHON)" $(UPGRADE)

release: setup ## Build and check everything that VERSION=x.y.z publishes, into dist/ (docs/releasing.md); ARGS="--without image"
	@$(BIN)/python -m tools.release $(VERSION) $(ARGS)

clean: ## Remove the environment and what tools keep
	rm -rf $(VENV) .tools .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist
