"""One node's side of the containers' network: names, and what the spawner is asked of it.

`api` is what the pool gives and sees. `zone` answers a question of DNS for one asker, `upstream` asks this machine's
own name servers, `responder` holds the sockets. `node` speaks to the spawner, which made bridge, addresses and rules.
"""
