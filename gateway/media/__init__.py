"""Pictures in and out: what customers send is fetched and checked here, what they get is kept and served here."""
