"""The spawner: the one process that is root, and the only one that makes namespaces, mounts and cgroups, or runs CRIU.

`server` reads one message at a time and forks a child for each, which runs one function of `operations`, `machines`,
`store_operations`, `image_operations`, `volumes` or `wires` and answers; `sweeping` takes away what nobody owns.
`protocol` is the wire, `names` checks every id and derives every path, `kernel` is the system calls. `cgroups`,
`networks`, `tenants`, `images`, `roots`, `sandbox`, `checkpoint`, `snapshots`, `bundles`, `layers` each make one thing.
Standard library only, and nothing of the rest of the project: whoever audits it reads this folder and no more.
"""
