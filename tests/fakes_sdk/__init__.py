"""A platform for the tests of SDK and CLI: `gateway` answers HTTP on loopback, `guest` runs calls in a process of their own.

Not here: anything of the real rooms; what both agree on is the HTTP contract.
"""
