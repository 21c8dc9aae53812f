"""Access control: tokens, addresses, Host and Origin rules, TLS."""
