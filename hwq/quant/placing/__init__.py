"""Which tensors are quantised, how, and with how many bits. Imports `methods` and `tracing`."""
