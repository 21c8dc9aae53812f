"""Who answers: the providers this program brings to an endpoint itself."""
