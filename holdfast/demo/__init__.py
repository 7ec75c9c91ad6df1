"""The whole thing rehearsed: simulated providers with faults, the sidecar as a real process, a sample application."""
