"""Prefect flows that compose tasks, deployments, and the command line.

No arithmetic on pixels. Importing this package is cheap: ``flows.cli`` must answer ``--help`` without torch or prefect.
"""
