"""Training with torch alone: losses, phases, the loop, checkpoints, and building the networks of each method."""
