"""The ways customers speak to us; each file translates one of them to the paid path and back."""
