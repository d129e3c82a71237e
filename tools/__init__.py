"""What the Makefile runs: installation, demo hub, demo without a screen, reference."""
