"""What a customer may see and do about the own account over the API."""
