# Everything starts here: `make run` and `make test` do all the set-up on a fresh machine. Needs bash, make and Python >= 3.11 with venv.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
PY := $(VENV)/bin/python
# Modules whose every branch must be walked: the layers below the rooms (see [tool.importlinter] in pyproject.toml).
WALKED := access/addresses access/directory access/tls access/tokens asgi console/assets console/forms console/pretty console/session core/broker core/catalog core/changes core/delivery core/endings core/endpoint \
	core/expiry core/features core/figures core/ledger core/lifecycle core/links core/lists core/notifications core/older_clients core/part core/parties \
	core/report core/roster core/routing core/shares core/taps core/tool_calls core/translator core/unreadable core/waiting credentials/lookahead \
	credentials/placement credentials/pool credentials/refusals credentials/rotation credentials/store errors files gateway/llm gateway/tee line_writer log pages \
	protocol/definitions protocol/jsonrpc protocol/methods protocol/schemas protocol/sse protocol/structured serving/sd_notify serving/signals settings/described \
	settings/env_file settings/first_start settings/ini settings/load settings/places settings/schema settings/sources settings/values \
	exchanges recorder/batch recorder/dialects recorder/files recorder/parts recorder/queue recorder/records recorder/redact recorder/taps web/metrics
comma := ,
empty :=
space := $(empty) $(empty)
WALKED_FILES := $(subst $(space),$(comma),$(wildcard $(WALKED:%=src/mcp_endpoint/%.py)))

# The tests use every core, at most four.
PYTEST := $(PY) -m pytest -n auto --maxprocesses=4 --dist=worksteal
# What `make quick` runs: the core, and what holds the project together. No sockets, no processes.
QUICK := tests/core tests/protocol tests/settings tests/credentials tests/access/test_tokens.py tests/lives tests/test_errors.py \
	$(foreach name,project docs requirements limits,tests/project/test_$(name).py)

.PHONY: help run demo test quick check peers ws conformance judges bench floods soak lint lock clean

help: ## show this list / 显示本列表
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.core ## start the server / 启动服务器
	@exec $(PY) main.py $(ARGS)

demo: $(VENV)/.http ## a server, two tools and a device, once around / 演示：服务器、两个工具与一个设备走一圈
	@$(PY) examples/demo.py

test: lint peers ## lint, types, import rules, tests, coverage / 全部检查与测试
	@$(PYTEST) --cov --cov-report= $(ARGS)
	@$(PY) -m coverage report --include='$(WALKED_FILES)' --fail-under=100

quick: $(VENV)/.test ## the core and the project checks, under a minute / 核心与项目检查，一分钟以内
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@HYPOTHESIS_PROFILE=quick $(PYTEST) -q $(QUICK) $(ARGS)

check: lint peers ws ## the long form of test: more examples, each module from its own test file / 更长的测试
	@HYPOTHESIS_PROFILE=check $(PYTEST) --timeout=900 -o faulthandler_timeout=1000 --cov --cov-report= $(ARGS)
	@$(PY) -m coverage report --include='$(WALKED_FILES)' --fail-under=100
	@$(PY) -m pytest -q --cov --cov-report= tests/core # the core's tests are plays of a whole endpoint
	@$(PY) -m coverage report --include='src/mcp_endpoint/core/*.py' --fail-under=100
	@for module in $(filter-out core/%,$(WALKED)); do \
		name=$${module##*/}; folder=tests/$${module%"$$name"}; \
		$(PY) -m pytest -q --cov --cov-report= $$(ls $$folder/test_$$name.py $$folder/test_$${name}_*.py 2>/dev/null || true); \
		$(PY) -m coverage report --include="src/mcp_endpoint/$$module.py" --fail-under=100; \
	done
	@$(PY) tests/mutants/run.py

peers: $(VENV)/.test # interpreters with other versions of the MCP SDKs, made once
	@$(PY) tests/live/venvs.py

ws: # npm's WebSocket client, for the tests of interoperation
	@if command -v node >/dev/null && command -v npm >/dev/null; then \
		[[ -d .venv-node/node_modules/ws ]] || npm install --silent --no-audit --no-fund --prefix .venv-node ws@8; \
	else \
		echo 'NOT TESTED against npm ws: node and npm are missing / 未测试 npm ws：缺少 node 与 npm' >&2; \
	fi

conformance: $(VENV)/.test ## the Autobahn|Testsuite; needs a Python 2.7 / WebSocket 一致性测试（需要 Python 2.7）
	@$(PY) tests/conformance/autobahn.py $(ARGS)

judges: $(VENV)/.test ## MCP's conformance suite and other clients, through the broker / MCP 一致性测试与其他客户端（需要 npm）
	@$(PY) tests/judges/run.py $(ARGS)

bench: $(VENV)/.bench ## measure beside a relay in C and one on Starlette / 与 C 及 Starlette 的转发程序对比测量
	@$(PY) benchmarks/run.py $(ARGS)

floods: $(VENV)/.test ## what an attacker costs everybody else / 攻击者给其他人带来的代价
	@$(PY) benchmarks/floods.py $(ARGS)

soak: $(VENV)/.core ## ten minutes of everything that goes wrong / 十分钟的各种故障
	@$(PY) benchmarks/soak.py $(ARGS)

lint: $(VENV)/.test
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

lock: $(VENV)/bin/python ## pin every package of requirements.txt with its hashes / 锁定依赖的版本与哈希
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' -o requirements.lock requirements.txt

clean: ## remove what the commands above made, never data/ or logs/ / 清理生成物（不动 data/ 与 logs/）
	@rm -rf $(VENV) .venv-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist benchmarks/build
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@rm -rf src/*.egg-info

$(VENV)/bin/python:
	@for python in $${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			"$$python" -m venv $(VENV); exit 0; \
		fi; \
	done; \
	echo 'Python >= 3.11 with venv is needed (Debian/Ubuntu: apt install python3 python3-venv; macOS: brew install python) / 需要带 venv 的 Python >= 3.11' >&2; \
	exit 1

$(VENV)/.core: requirements.txt | $(VENV)/bin/python
	@echo 'Installing the packages it needs, once … / 正在安装依赖（仅一次）…'
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.http: pyproject.toml requirements.txt | $(VENV)/bin/python
	@echo 'Installing the packages the demo needs, once … / 正在安装演示依赖（仅一次）…'
	@$(PY) -m pip install --quiet --disable-pip-version-check -e '.[http]'
	@touch $@

$(VENV)/.bench: requirements.txt benchmarks/requirements.txt | $(VENV)/bin/python
	@echo 'Installing the packages the benchmarks need, once … / 正在安装测量依赖（仅一次）…'
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt -r benchmarks/requirements.txt
	@touch $@

$(VENV)/.test: pyproject.toml requirements.txt | $(VENV)/bin/python
	@echo 'Installing the packages the tests need, once … / 正在安装测试依赖（仅一次）…'
	@$(PY) -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
