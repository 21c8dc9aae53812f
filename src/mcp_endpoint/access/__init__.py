"""Who may come in: tokens, addresses, Host and Origin, TLS."""
