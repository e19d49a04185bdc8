# Thin names for the scripts, which run without make too.
.PHONY: help setup check test test-long coverage test-clocks nightly demo scenarios bench bench-deployer fleet soak fuzz site deb deb-check test-system test-qemu
help: ## this list
	@sed -n 's/^\([a-z-]*\): ## \(.*\)/\1\t\2/p' Makefile | expand -t 16
setup: ## the environments below build/ that the tests need
	@scripts/setup
check: ## style, types and the fast tests: half a minute, before each commit
	@scripts/check
test: ## style, types, unit and integration tests: minutes, before each push
	@scripts/test
test-long: ## the tests that make test leaves out: both releases of the cloud, kills, scenarios
	@scripts/test-long
coverage: ## lines that the unit tests reach, against the floor of each file (RAISE=1 raises the floors)
	@scripts/coverage $(if $(RAISE),--raise)
test-clocks: ## what depends on the date, under moved clocks; needs a C compiler
	@scripts/test-clocks
nightly: ## the long runs: many examples for each property, moved clocks, all scenarios
	@scripts/nightly
demo: ## the product on a real Keystone and Barbican (KEEP=1 leaves it running)
	@scripts/demo $(if $(KEEP),--keep)
scenarios: ## every failure scenario of docs/outages.md
	@scripts/scenarios
bench: ## the agent beside its peers (QUICK=1 without peers, WRITE=1 renews docs/figures.md)
	@scripts/bench $(if $(QUICK),--quick) $(if $(WRITE),--write)
bench-deployer: ## what the deployer costs, beside what was promised (QUICK=1, WRITE=1 renews docs/); needs PostgreSQL 15
	@scripts/bench-deployer $(if $(QUICK),--quick) $(if $(WRITE),--write)
fleet: ## a simulated fleet's outages, with pictures
	@scripts/fleet
soak: ## the agent for long, with faults: does anything grow?
	@scripts/soak
fuzz: ## every reader of others' bytes, guided by coverage (SECONDS=600)
	@scripts/fuzz --seconds $(or $(SECONDS),60)
site: ## the documents as a site with search: build/site/html
	@scripts/site
deb: ## the Debian package, the same bytes each time
	@scripts/deb
deb-check: ## the package: same bytes twice, lintian, units, piuparts; needs root
	@scripts/deb-check
test-system: ## the package on booted Debian 12 and 13; needs root
	@scripts/test-system
test-qemu: ## the package on Debian 13's own kernel; needs root
	@scripts/test-qemu
