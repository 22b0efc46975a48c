"""Small programs that stand in for what cannot be had in a test, speaking the real protocol."""
