"""The user's network as a graph of calls, each of a known kind. Imports no other room of `quant`."""
