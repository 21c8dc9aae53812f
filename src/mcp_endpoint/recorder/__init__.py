"""The recorder: stores the calls of devices, tools and models, one record per call."""
