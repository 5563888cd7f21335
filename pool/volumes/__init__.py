"""A tenant's volumes: `registry` keeps them in Redis and memory, `service` is the verbs, `api` what the gateway sees.

What is attached to a volume is asked of whoever attaches (containers, functions) and stored nowhere else.
"""
