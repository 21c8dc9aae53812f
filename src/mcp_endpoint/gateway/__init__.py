"""Named HTTP routes to upstreams whose keys the house keeps."""
