"""Managed servers that run as child processes."""
