"""Which instance serves which invocation, and everything about functions that outlives a process. Redis lives here.

`platform` implements `api.Platform` by putting the parts together. `registry` (with `functions`, `keys_in_redis`,
`scripts`, `redis_link`) keeps functions and versions, `api_keys` and `leases` the other records. A call goes through
`invoking` to its version's pool in `dispatcher`, which asks `scaler` what to do and has `executor` do it; `pools` says
which pool is a function's, `deploy` and `reconciler` change that. `records`, `log_files`, `stats` and `metrics` keep
what was seen. No HTTP, no subprocess.
"""
