"""The configuration: its fields, where their values come from, the first start."""
