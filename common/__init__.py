"""What agent and deployer share: pure, standard library only, no clock, no I/O."""
