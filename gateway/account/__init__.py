"""What a customer may do with an own account over the API."""
