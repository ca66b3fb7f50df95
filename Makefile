# Everything a newcomer, an operator of a test box and CI do, by one word each.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PREFIX ?= /opt/capad
# Most tests wait more than they compute: three at once on two cores.
JOBS ?= 3
CODE := capa capad adapters tests bench

.PHONY: help setup demo test check lint types imports unit bench drill mutants install clean

help: ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv with everything that is needed, in pinned versions

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("capad needs Python 3.11 or newer; say make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	@echo "installing into $(VENV) (once; about a minute)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,report,query,asyncio-links]'
	@for tool in mbpoll:mbpoll ssh-keygen:openssh-client; do \
	  command -v "$${tool%:*}" > /dev/null && continue; \
	  test "$$(id -u)" = 0 && { apt-get install -y -q "$${tool#*:}" \
	    || { apt-get update -q && apt-get install -y -q "$${tool#*:}"; }; } > /dev/null 2>&1 \
	  || echo "$${tool%:*}: not installed, the tests with it are skipped"; done
	@touch $@

demo: $(READY) ## run the demo method through the daemon on the simulator twins (about 40 s)
	@rm -rf demo-out && mkdir -p demo-out/spool/incoming
	@cp configs/methods/demo.method.toml demo-out/spool/incoming/
	$(BIN)/capad --config configs/demo.toml --twin --once

test: $(READY) ## run every test: unit, properties, wire, process, systemd
	$(BIN)/pytest tests -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: $(READY) ## ruff, flake8-async, mypy --strict, import contracts, unit hardening
	@$(MAKE) --no-print-directory -j 2 --output-sync lint types imports unit

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	git grep -lzE 'async|trio' -- 'capa/*.py' 'capad/*.py' 'adapters/*.py' | xargs -0 -n 24 -P 2 \
	  $(BIN)/flake8-async --enable=ASYNC --startable-in-context-manager=run,serve_control,listen

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports --no-cache > $(VENV)/imports.txt || { cat $(VENV)/imports.txt; exit 1; }
	@tail -n 3 $(VENV)/imports.txt

unit:
	@if command -v systemd-analyze > /dev/null; then \
	  systemd-analyze security --offline=true --threshold=20 --no-pager deploy/systemd/capad.service | tail -n 1; \
	else echo "unit: not checked, systemd-analyze is not installed"; fi

drill-data: $(READY) ## kill -9 at 300 random instants, then look for what was lost (about 20 min)
	$(BIN)/python -m tests.drill_data --n 300

bench: $(READY) ## measure latencies, tick error, CPU and memory; prints goals reached and missed
	$(BIN)/python -m bench

drill: $(READY) ## hurt the rig in every way we know, judged on the wire (as root; about 45 min)
	$(BIN)/python -m tests.drill

mutants: $(READY) ## break the safety path by hand in every way we know: each must fail a test (about 10 min)
	$(BIN)/python -m tests.mutants

install: ## install into $(PREFIX) with the systemd unit (as root, on the box)
	$(PYTHON) -m venv $(PREFIX)
	$(PREFIX)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt .
	install -d $(PREFIX)/libexec $(DESTDIR)/etc/capad $(DESTDIR)/etc/systemd/system $(DESTDIR)/etc/sysusers.d
	install -m 644 capad/guard.py $(PREFIX)/libexec/capad_guard.py
	install -m 755 deploy/capad-guard $(PREFIX)/libexec/capad-guard
	$(PREFIX)/bin/python -m compileall -q -f $(PREFIX)/libexec
	install -D -m 644 docs/safety.md $(PREFIX)/share/doc/capad/safety.md
	test -e $(DESTDIR)/etc/capad/capad.toml || install -m 644 deploy/capad.toml $(DESTDIR)/etc/capad/capad.toml
	install -m 644 deploy/systemd/capad.sysusers.conf $(DESTDIR)/etc/sysusers.d/capad.conf
	sed 's|/opt/capad|$(abspath $(PREFIX))|g' deploy/systemd/capad.service > $(DESTDIR)/etc/systemd/system/capad.service
	@echo "next, as root:"
	@echo "  systemd-sysusers                     makes the user and the group capad"
	@echo "  usermod -aG capad NAME               for each operator who drops methods"
	@echo "  put the rig's profile at /etc/capad/hardware.toml; capa validate says what is wrong with it"
	@echo "  systemctl daemon-reload && systemctl enable --now capad"

clean: ## remove what the other words made
	rm -rf $(VENV) demo-out bench-out drill-out .mypy_cache .ruff_cache .pytest_cache .hypothesis
