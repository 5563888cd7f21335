"""Containers of users as the platform keeps them: records and names in Redis, what is asked and what becomes of them.

`entry` is one container in memory and its record; `registry` keeps them in Redis; `service` has the verbs, one at a
time for each container, and what happens by itself; `policy` decides what becomes of one whose command or init has
ended; `readiness` asks whether it can be used. What runs is the runtime's (`runtime.containers`).
"""
