"""The API's models, shared by gateway, pool, SDK and CLI.

`common` holds what every route shares, `function` and `invocation` the two things of the function API. What comes from
outside is a `Model` (unknown fields refused), what we answer a `Record` (unknown fields kept).
"""
