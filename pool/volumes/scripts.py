"""The Lua scripts of volumes. KEYS and ARGV stand above each; not here: who calls them (`registry`)."""

from __future__ import annotations

# KEYS 1 names of the tenant's volumes, 2 the tenant's volumes
# ARGV 1 name, 2 volume id, 3 record (JSON)
# Answers the id that holds the name now: the caller's where it was free
ADD_VOLUME = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and redis.call('HEXISTS', KEYS[2], held) == 1 then return held end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return ARGV[2]
"""

# KEYS 1 names of the tenant's volumes, 2 the tenant's volumes
# ARGV 1 volume id, 2 record (JSON), 3 name that it has, 4 name that it is to have ('' for none: its name is freed)
# Answers "ok", "gone" (there is no such volume), or the id that holds the other name
SET_VOLUME = """
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then return 'gone' end
if ARGV[4] ~= ARGV[3] then
  if ARGV[4] ~= '' then
    local held = redis.call('HGET', KEYS[1], ARGV[4])
    if held and redis.call('HEXISTS', KEYS[2], held) == 1 then return held end
    redis.call('HSET', KEYS[1], ARGV[4], ARGV[1])
  end
  if redis.call('HGET', KEYS[1], ARGV[3]) == ARGV[1] then redis.call('HDEL', KEYS[1], ARGV[3]) end
end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 'ok'
"""
