"""What every room may use: checks, trees, chunks, products, random numbers, rules of derivatives.

It imports JAX only.
"""
