"""The roof: what people touch. Command line, client, simulator, demo."""
