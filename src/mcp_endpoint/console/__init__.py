"""The console: web pages about the server, protected by its key."""
