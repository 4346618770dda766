# Everything here is a script that can be called by itself; this file only gives them names.
.DEFAULT_GOAL := help
.PHONY: help demo demo-vm test test-unit test-e2e test-doors cluster cluster-down install uninstall bench lint generate clean

help: ## this list
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## the whole story on a real cluster: a failed build, an ssh login, and nothing left a minute later
	@e2e/demo

demo-vm: ## the other story: a wedged machine, one key from Vault, bounded verbs on its hypervisor
	@e2e/demo-vm

test: ## every test but those of `make test-doors`: units, fakes and the real cluster
	@e2e/test all

test-unit: ## format, lints, licences, unit and loopback tests: no cluster
	@e2e/test unit

test-e2e: ## the tests on the real cluster
	@e2e/test cluster

test-doors: ## Tekton, Flux, Helm, the kubectl plugin and ssh clients, against the real ones
	@e2e/doors/test

cluster: ## build and start the test cluster (needs root); says so if it is up
	@e2e/cluster/build
	@e2e/cluster/up

cluster-down: ## end the test cluster and leave the machine as it was
	@e2e/cluster/down

install: ## build Sandglass and install it into the test cluster
	@e2e/install

uninstall: ## remove Sandglass from the test cluster
	@e2e/uninstall

bench: ## measure against OpenSSH's own server; writes target/bench.json
	@e2e/bench/run

lint: ## cargo fmt, clippy
	@cargo fmt --check
	@cargo clippy --locked --all-targets -- -D warnings

generate: ## write crds/ and docs/api.md from the code
	@e2e/generate

clean: ## remove target/
	@rm -rf target
