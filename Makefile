# gwlbtun: `make demo` shows it, `make test` proves it, `make setup` prepares .venv/bin/gwlbtun.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

TOOLS := ip:iproute2 iptables:iptables ping:iputils-ping curl:curl iperf3:iperf3 \
         traceroute:traceroute tcpdump:tcpdump dig:dnsutils tc:iproute2 pgrep:procps \
         ethtool:ethtool nsenter:util-linux setpriv:util-linux
TEST_TOOLS := $(TOOLS) shellcheck:shellcheck
PATH := /usr/local/sbin:/usr/sbin:/sbin:$(PATH)
export PATH
PURE := tests/unit/wire tests/unit/datapath

.PHONY: help
help: ## show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## prepare .venv with .venv/bin/gwlbtun in it
	@scripts/setup.sh

.PHONY: demo
demo: ## real traffic through two endpoints of a simulated GWLB (root)
	@scripts/setup.sh $(TOOLS)
	@.venv/bin/gwlbtun lab demo

.PHONY: test
test: ## lint, then every test: unit, property, namespaces (root)
	@scripts/setup.sh $(TEST_TOOLS)
	@$(MAKE) --no-print-directory lint
	.venv/bin/coverage run -m pytest -q $(PURE)
	.venv/bin/coverage report --include 'gwlbtun/wire/*,gwlbtun/datapath/*' --fail-under=100
	.venv/bin/pytest $(addprefix --ignore=,$(PURE))

.PHONY: lint
lint: ## ruff, mypy, shellcheck
	@scripts/setup.sh shellcheck:shellcheck
	.venv/bin/ruff check --quiet .
	.venv/bin/ruff format --quiet --check .
	.venv/bin/mypy
	git ls-files -z --cached --others --exclude-standard '*.sh' .ci/run | xargs -0 shellcheck

.PHONY: bench
bench: ## packet rates and CPU per packet, as ratios in one run (root)
	@scripts/setup.sh $(TOOLS) taskset:util-linux
	@.venv/bin/python -m bench

.PHONY: vm-test
vm-test: ## the kernel path on Debian's kernels 6.1 and 6.12, in QEMU
	@scripts/vm-test.sh bookworm
	@scripts/vm-test.sh trixie

.PHONY: lock
lock: ## renew requirements/*.txt from pyproject.toml and requirements/*.in
	@scripts/setup.sh
	@scripts/lock.sh

.PHONY: clean
clean: ## remove what make has made
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
