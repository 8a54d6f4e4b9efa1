"""What kills do to runs: scripts that take long and print a table."""
