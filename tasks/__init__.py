"""One unit of work each (a shard, an epoch, a report): read through storage, call a method, write through storage.

No algorithm and no layout of files on disk lives here.
"""
