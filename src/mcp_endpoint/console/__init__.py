"""The console: pages for people about what the server does, behind its key."""
