"""HTTP: parse, authenticate, one call into the pool, serialise. No Redis and no subprocess lives here.

`node` is the composition root of the node process and `server` listens and drains. `app` holds the table of routes,
whose handlers stand in `functions`, `invocations`, `bundles`, `keys` and `system`; each gets an `Ask` (`context`).
`invoke` serves `/fn/<name>`, the hot path, past the router; `responses` turns what a function answered into HTTP.
`auth`, `body`, `errors`, `idempotency` and `logs` are what all of them share; `docs` writes the reference pages.
"""
