"""Fakes that stand in for a whole room in tests: real behaviour in memory, with failures on demand.

`runtime` is a FunctionRuntime without sandboxes.
"""
