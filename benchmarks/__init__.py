"""Figures of a real platform, taken at an HTTP client: `demo` for people, `bench` for the record.

`private` starts a platform of its own and sees that nothing of it is left; `functions` deploys, and starts in the way
asked for; `bare`, `floor_fork` and `floor_criu` are the floors that each figure stands beside, `load` the generator for
both; `suites` says what is measured, `figures` is the arithmetic, `report` the table, the file and the plot.
"""
