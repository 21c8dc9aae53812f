"""Managed servers that are reached by URL."""
