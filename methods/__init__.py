"""The science: tensors in, tensors out.

Knows no Prefect, no Zarr, no files and no configuration objects.
"""
