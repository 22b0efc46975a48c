"""The record of every call: what was asked, what it cost and how it ended."""
