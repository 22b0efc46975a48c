"""Organizations and the API keys that speak for them."""
