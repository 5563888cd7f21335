"""One node's volumes: `api` is what the pool sees, `store` does it with the spawner, `streams` moves bytes between
descriptors and async iterators. Names, records and attachments are the pool's (`pool.volumes`).
"""
