"""Audit: what a data set hides from its own author."""

from methods.audit.leaks import Leak, find_leaks, fingerprint

__all__ = ["Leak", "find_leaks", "fingerprint"]
