"""The configuration deployer.toml."""
