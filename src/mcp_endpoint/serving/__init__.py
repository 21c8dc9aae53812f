"""The running server: assembly, listeners, start and shutdown."""
