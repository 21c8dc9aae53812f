"""The core: endpoints, their parties, and the routing of requests; pure."""
