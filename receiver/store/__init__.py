"""The record's interface (`base`) and its implementations, one folder a dialect. `open_store` picks by URL."""
