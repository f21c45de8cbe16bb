"""Measurements that anyone can repeat (extra `bench`): `python -m esjax.benchmarks`."""
