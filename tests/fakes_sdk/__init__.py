"""A platform for tests of SDK and CLI: `gateway` answers HTTP on loopback, `guest` runs a call in a process of its own.

Not here: anything of the real rooms; what both agree on is the HTTP contract.
"""
