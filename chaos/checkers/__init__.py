"""Judges of histories. Pure: they read records and return verdicts; they start nothing and ask nobody."""
