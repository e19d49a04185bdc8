"""What the deployer costs."""
