"""Two CartPole clients to copy from: one with our two classes, one by the written contract alone."""
