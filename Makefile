# Thin names for the scripts, which run without make too.
.PHONY: demo test bench setup
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
bench: ; @scripts/bench
setup: ; @scripts/setup
