"""The HTTP gateway: named routes to upstreams whose keys this server keeps."""
