"""The package on Debian's own kernels, in qemu."""
