"""The running server: its listeners, its rooms, its start and its end."""
