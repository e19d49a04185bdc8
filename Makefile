# Thin names for the scripts, which run without make too.
.PHONY: demo test bench setup deb deb-check test-system test-qemu
demo: ; @scripts/demo $(if $(KEEP),--keep)
test: ; @scripts/test
bench: ; @scripts/bench
setup: ; @scripts/setup
deb: ; @scripts/deb
deb-check: ; @scripts/deb-check
test-system: ; @scripts/test-system
test-qemu: ; @scripts/test-qemu
