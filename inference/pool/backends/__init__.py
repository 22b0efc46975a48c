"""Backends: weights of one architecture on one device."""
