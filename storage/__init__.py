"""The data contract: workspace, image index, Zarr arrays, commit records, Parquet tables, weights, readers, exporters.

Knows files and formats, never Prefect and never a network. Rooms above read and write only through it.
"""
