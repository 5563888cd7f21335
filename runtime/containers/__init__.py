"""Containers that users ask for: started by the spawner, then spoken to through their own init.

`api` is the contract; `link` the connection to a container's init; `live` one running container on this node. Records,
names and policies are the pool's (`pool.containers`).
"""
