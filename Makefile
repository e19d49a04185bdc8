# Thin names for the scripts, which run without make too.
.PHONY: demo test bench setup deb test-system
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
bench: ; @scripts/bench
setup: ; @scripts/setup
deb: ; @scripts/deb
test-system: ; @scripts/test-system
