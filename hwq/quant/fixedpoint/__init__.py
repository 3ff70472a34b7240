"""The prepared network as its integers are, with gradients. Imports `methods`, `tracing`, `placing`."""
