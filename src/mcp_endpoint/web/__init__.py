"""The HTTP application of the server: status, metrics and the routes of the rooms."""
