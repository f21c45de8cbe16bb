"""What every room may use: checks, trees, chunks, products, random numbers, derivative rules.

It imports JAX and NumPy only.
"""
