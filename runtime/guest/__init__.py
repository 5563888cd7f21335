"""What runs inside a container: standard library only (and cloudpickle, mounted beside it), nothing of the rest of
Quilt.

`template` boots, imports the handler and forks; `instance` is one fork, which serves invocations over the frames of
`wire`; `handler` calls the user's function, `audit` finds what a fork would share, `reseed` what it must not,
`lockdown` takes rights away for good. `init/` is pid 1, in C. Mounted as the package `_quilt_guest`, a name that no
user module has.

Every page of a template is read at each restore, and what a fork touches first is copied. So nothing here imports
typing, dataclasses, inspect, socket, threading or pickle before a function needs it (`TYPE_CHECKING = False` is what
type checkers take for typing's), and what a fork would make, such as ctypes' objects, a template makes ahead.
"""
