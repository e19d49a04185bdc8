# Thin names for the scripts, which run without make too.
.PHONY: demo test bench setup deb deb-check test-system scenarios
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
scenarios: ; @scripts/scenarios
bench: ; @scripts/bench
setup: ; @scripts/setup
deb: ; @scripts/deb
deb-check: ; @scripts/deb-check
test-system: ; @scripts/test-system
