"""A Platform in memory for the gateway's unit tests."""
