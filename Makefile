# Thin names for the scripts, which run without make too.
.PHONY: demo test bench setup deb deb-check test-system
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
bench: ; @scripts/bench $(if $(QUICK),--quick) $(if $(WRITE),--write)
setup: ; @scripts/setup
deb: ; @scripts/deb
deb-check: ; @scripts/deb-check
test-system: ; @scripts/test-system
