"""Pictures, masks and providers: what to segment, who can do it, and the pool that does it here."""
