"""Keys of upstream services: which one is next, which one rests, where they are kept."""
