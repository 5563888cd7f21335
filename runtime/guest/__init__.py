"""What runs inside a container: standard library only (and cloudpickle, mounted beside it), nothing of the rest of
Quilt.

`template` boots, imports the handler and forks; `instance` is one fork, which serves invocations over the frames of
`wire`; `handler` calls the user's function, `audit` finds what a fork would share, `reseed` what it must not,
`lockdown` takes rights away for good. `init/` is pid 1, in C. Mounted as the package `_quilt_guest`, a name that no
user module has.
"""
