"""The recorder: what devices, tools and models said, one record per call."""
