"""Compiles an exported project, runs it, and compares every op with the Python simulator, bit for bit."""
