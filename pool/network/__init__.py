"""Containers' network as the API asks for it: `service` for addresses, names and egress, `directory` for who is who,
`published` for services that are reached from outside. What the machine does is `runtime.network`'s.
"""
