"""The demo: the daemon and two CartPole clients as real processes, watched until they have learned."""
