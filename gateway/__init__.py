"""The HTTP gateway: keys, limits, dialects and the paid path that joins money and pictures."""
