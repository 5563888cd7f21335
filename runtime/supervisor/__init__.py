"""The supervisor, `quilt up`: starts Redis, the spawner and the node process, brings back what dies, stops all in turn.

`lock` says who holds a state folder. `folders` makes what the children need and takes it away; `credentials` has the
first API key. `commands` is what is started and how, `child` one of them through its lives, `run` all of them together.
`control` is what other processes do with a running supervisor: start it in the background, ask it, end it.
One thread, standard library only; it does no work of the platform's itself, so that nothing can bring it down.
"""
