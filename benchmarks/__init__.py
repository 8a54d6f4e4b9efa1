"""Speed and memory, each as a ratio to a floor that is measured in the same run; figures are kept in RESULTS.md.

Run one with ``python -m benchmarks.<name>``. Nothing in the product imports this package.
"""
