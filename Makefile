# Thin names for the scripts, which run without make too.
.PHONY: test setup
setup: ; @scripts/setup
test: ; @scripts/test
