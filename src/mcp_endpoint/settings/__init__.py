"""The configuration: its schema, its sources, loading, and the file written at the first start."""
