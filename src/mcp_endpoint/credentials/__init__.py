"""Keys of upstream services: storage, rotation, rest and ban."""
