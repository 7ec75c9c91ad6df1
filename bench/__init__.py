"""The benchmark: load from a separate process, yardsticks in the same run, ratios rather than absolute figures."""
