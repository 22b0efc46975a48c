"""The `gateway` command: serve, look after tenants and money, try the product, find out what is wrong."""

from gateway.cli.program import main

__all__ = ["main"]
