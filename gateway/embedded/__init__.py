"""What a newcomer's machine runs beside the gateway: PostgreSQL and the SAM 3 pool, as children that die with it."""
