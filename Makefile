# Thin names for the scripts, which run without make too.
.PHONY: demo test bench scenarios fleet soak setup deb deb-check test-system test-qemu
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
scenarios: ; @scripts/scenarios
bench: ; @scripts/bench $(if $(QUICK),--quick) $(if $(WRITE),--write)
fleet: ; @scripts/fleet
soak: ; @scripts/soak
setup: ; @scripts/setup
deb: ; @scripts/deb
deb-check: ; @scripts/deb-check
test-system: ; @scripts/test-system
test-qemu: ; @scripts/test-qemu
