"""The HTTP application around the rooms: status, metrics and pages."""
