"""The Lua scripts: every change of several keys, or that depends on what is there, is one of these.

Each has its KEYS and ARGV above it; time comes from Redis, JSON is built in Python. Not here: who calls them.
"""

from __future__ import annotations

# KEYS 1 function hash, 2 version hash
# ARGV 1 "create" (the function must not be there) or "update" (it must be, not deleting)
#      2 version number, 3 spec (JSON), 4 tenant id, 5 name, 6 now (ISO), 7 initial state of the version
# Answers "ok", "exists" (the function or the version is there) or "gone"
ADD_VERSION = """
local there = redis.call('EXISTS', KEYS[1]) == 1
if ARGV[1] == 'create' then
  if there then return 'exists' end
  redis.call('HSET', KEYS[1], 'tenant_id', ARGV[4], 'name', ARGV[5], 'asked', '', 'current', '0',
             'target', '', 'created_at', ARGV[6])
else
  if not there or redis.call('HGET', KEYS[1], 'asked') == 'deleting' then return 'gone' end
  if redis.call('EXISTS', KEYS[2]) == 1 then return 'exists' end
end
redis.call('HSET', KEYS[1], 'newest', ARGV[2], 'updated_at', ARGV[6])
redis.call('HSET', KEYS[2], 'spec', ARGV[3], 'state', ARGV[7], 'error', '', 'built', '', 'incarnation', '0',
           'created_at', ARGV[6], 'updated_at', ARGV[6])
return 'ok'
"""

# KEYS 1 function hash, 2 version hash
# ARGV 1 version number
# Undoes an update whose answer was lost. Answers whether there was one
TAKE_BACK_VERSION = """
local newest, state = redis.call('HGET', KEYS[1], 'newest'), redis.call('HGET', KEYS[2], 'state')
if newest ~= ARGV[1] or state ~= 'pending' then return 0 end
redis.call('DEL', KEYS[2])
redis.call('HINCRBY', KEYS[1], 'newest', -1)
return 1
"""

# KEYS 1 version hash   ARGV 1 spec (JSON)
# The same spec in another form, where the version is still there. Answers whether it was.
SET_SPEC = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], 'spec', ARGV[1])
return 1
"""

# KEYS 1 version hash, 2 function hash
# ARGV 1 new state, 2 the states it may come from, joined by commas, 3 incarnation of the deciding node process,
#      4 error text, 5 built (JSON or ''), 6 number to make current or '0', 7 now (ISO)
# Answers {"ok", current} or {"gone", ""} or {"refused", state} or {"fenced", incarnation that holds it}; the same move
# of the same process again, because its answer was lost, is "ok"
MOVE_VERSION = """
local state = redis.call('HGET', KEYS[1], 'state')
local current = redis.call('HGET', KEYS[2], 'current')
if not state or not current then return {'gone', ''} end
local holder = redis.call('HGET', KEYS[1], 'incarnation') or '0'
if tonumber(holder) > tonumber(ARGV[3]) then return {'fenced', holder} end
local allowed = state == ARGV[1] and holder == ARGV[3]
for old in string.gmatch(ARGV[2], '[^,]+') do
  if old == state then allowed = true end
end
if not allowed then return {'refused', state} end
redis.call('HSET', KEYS[1], 'state', ARGV[1], 'incarnation', ARGV[3], 'error', ARGV[4], 'updated_at', ARGV[7])
if ARGV[5] ~= '' then redis.call('HSET', KEYS[1], 'built', ARGV[5]) end
if tonumber(ARGV[6]) > tonumber(current) then
  redis.call('HSET', KEYS[2], 'current', ARGV[6])
  current = ARGV[6]
end
redis.call('HSET', KEYS[2], 'updated_at', ARGV[7])
return {'ok', current}
"""

# KEYS 1 function hash
# ARGV 1 now (ISO), then field, value, field, value …
# Answers 1, or 0 where the function is gone or deleting (nothing is written then)
SET_FUNCTION = """
local asked = redis.call('HGET', KEYS[1], 'asked')
if not asked or asked == 'deleting' then return 0 end
redis.call('HSET', KEYS[1], 'updated_at', ARGV[1])
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
"""

# KEYS 1 a hash
# ARGV 1 field, 2 value that it may have by a write whose answer was lost, 3 value before
# Answers whether it had
PUT_BACK = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# KEYS 1 record order, 2 records, 3 counts, 4 function hash
# ARGV 1 how many records are kept, 2 keep those that ended after (epoch s), 3 last invoked at (epoch s),
#      4 and 5 invocations and errors to count that are not written because newer ones would push them out,
#      then for each record: id, ended at (epoch s), "1" where it counts as an error else "0", packed record
# A record that is there already is written again but not counted again, so that a batch may be sent twice.
# Answers how many were new; -1 where the function has gone (nothing is written then)
PUSH_RECORDS = """
if redis.call('EXISTS', KEYS[4]) == 0 then return -1 end
local added, errors = tonumber(ARGV[4]), tonumber(ARGV[5])
for i = 6, #ARGV, 4 do
  if redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 3]) == 1 then
    added = added + 1
    if ARGV[i + 2] == '1' then errors = errors + 1 end
  end
  redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
end
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2])
local over = redis.call('ZCARD', KEYS[1]) - #old - tonumber(ARGV[1])
if over > 0 then
  local more = redis.call('ZRANGE', KEYS[1], #old, #old + over - 1)
  for i = 1, #more do old[#old + 1] = more[i] end
end
for i = 1, #old do
  redis.call('ZREM', KEYS[1], old[i])
  redis.call('HDEL', KEYS[2], old[i])
end
redis.call('HINCRBY', KEYS[3], 'invocations', added)
redis.call('HINCRBY', KEYS[3], 'errors', errors)
redis.call('HSET', KEYS[3], 'last_invoked_at', ARGV[3])
return added
"""

# KEYS 1 leases, 2 incarnations
# ARGV 1 node id
# Answers the new incarnation; whoever held the lease of this node before is fenced from here on
TAKE_LEASE = """
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
local incarnation = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], incarnation .. ' ' .. now)
return incarnation
"""

# KEYS 1 leases
# ARGV 1 node id, 2 incarnation
# Answers the incarnation that holds the lease: the caller's, renewed (made anew if gone), or a newer one's
RENEW_LEASE = """
local time = redis.call('TIME')
local now = time[1] .. string.format('%03d', math.floor(tonumber(time[2]) / 1000))
local held = redis.call('HGET', KEYS[1], ARGV[1])
local holder = held and string.match(held, '^(%d+) ') or '0'
if tonumber(holder) > tonumber(ARGV[2]) then return tonumber(holder) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. now)
return tonumber(ARGV[2])
"""

# KEYS 1 leases
# ARGV 1 node id, 2 incarnation
# Answers 1 where the lease was this incarnation's and is now gone, else 0
DROP_LEASE = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^(%d+) ') == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""

# KEYS 1 leases
# ARGV 1 milliseconds after which a lease that was not renewed has lapsed
# Answers the ids of the nodes whose lease has lapsed
LAPSED_LEASES = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
local lapsed = {}
for i = 1, #all, 2 do
  local renewed = string.match(all[i + 1], ' (%d+)$')
  if now - tonumber(renewed) > tonumber(ARGV[1]) then lapsed[#lapsed + 1] = all[i] end
end
return lapsed
"""

# KEYS 1 names of the tenant
# ARGV 1 name, 2 function id, 3 id that may be replaced ('' for none)
# Answers the id that holds the name now
CLAIM_NAME = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and held ~= ARGV[3] then return held end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return ARGV[2]
"""

# KEYS 1 names of the tenant
# ARGV 1 name, 2 function id
# Answers 1 where the name was that function's and is now free, else 0
FREE_NAME = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return 0
"""

# KEYS 1 names of the tenant, 2 ids of the tenant, 3 container hash
# ARGV 1 name, 2 container id, 3 state, 4 kept (JSON), 5 now (ISO), 6 incarnation
# Answers the id that holds the name: the container's own where it was made
CREATE_CONTAINER = """
local held = redis.call('HGET', KEYS[1], ARGV[1])
if held then return held end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[3], 'name', ARGV[1], 'state', ARGV[3], 'kept', ARGV[4], 'created_at', ARGV[5],
           'updated_at', ARGV[5], 'incarnation', ARGV[6])
return ARGV[2]
"""

# KEYS 1 container hash
# ARGV 1 new state ('' leaves it), 2 the states it may come from, joined by commas, 3 incarnation of the deciding node
#      process, 4 kept (JSON), 5 now (ISO)
# Answers {"ok", ""} or {"gone", ""} or {"refused", state} or {"fenced", incarnation that holds it}
MOVE_CONTAINER = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state then return {'gone', ''} end
local holder = redis.call('HGET', KEYS[1], 'incarnation') or '0'
if tonumber(holder) > tonumber(ARGV[3]) then return {'fenced', holder} end
if ARGV[1] ~= '' then
  local allowed = false
  for old in string.gmatch(ARGV[2], '[^,]+') do
    if old == state then allowed = true end
  end
  if not allowed then return {'refused', state} end
  state = ARGV[1]
end
redis.call('HSET', KEYS[1], 'state', state, 'incarnation', ARGV[3], 'kept', ARGV[4], 'updated_at', ARGV[5])
return {'ok', ''}
"""

# KEYS 1 names of the tenant, 2 container hash
# ARGV 1 old name, 2 new name, 3 container id, 4 kept (JSON), 5 now (ISO)
# Answers the id that holds the new name: the container's own where it was renamed
RENAME_CONTAINER = """
local held = redis.call('HGET', KEYS[1], ARGV[2])
if held and held ~= ARGV[3] then return held end
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
if ARGV[1] ~= ARGV[2] and redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[3] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[2], 'name', ARGV[2], 'kept', ARGV[4], 'updated_at', ARGV[5])
return ARGV[3]
"""

# KEYS 1 names of the tenant, 2 ids of the tenant, 3 container hash
# ARGV 1 name, 2 container id
# Answers 1; idempotent
DELETE_CONTAINER = """
if redis.call('HGET', KEYS[1], ARGV[1]) == ARGV[2] then redis.call('HDEL', KEYS[1], ARGV[1]) end
redis.call('SREM', KEYS[2], ARGV[2])
redis.call('DEL', KEYS[3])
return 1
"""

# KEYS 1 operation order of the tenant, 2 operation states, 3 operation records
# ARGV 1 id, 2 state (`<status> <incarnation>`), 3 record (JSON), 4 how many are kept, 5 keep those begun after
#      (epoch s), 6 the statuses that are ends, each between spaces
# The order's score is the microsecond of its beginning, moved on where needed so that each operation has its own; a
# cursor is such a score. What has not ended is never trimmed.
# Answers the score
ADD_OPERATION = """
local time = redis.call('TIME')
local score = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if last[2] and tonumber(last[2]) >= score then score = tonumber(last[2]) + 1 end
local text = string.format('%.0f', score)
redis.call('ZADD', KEYS[1], text, ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', tonumber(ARGV[5]) * 1000000))
local over = redis.call('ZCARD', KEYS[1]) - #old - tonumber(ARGV[4])
if over > 0 then
  local more = redis.call('ZRANGE', KEYS[1], #old, #old + over - 1)
  for i = 1, #more do old[#old + 1] = more[i] end
end
for i = 1, #old do
  local state = redis.call('HGET', KEYS[2], old[i])
  local status = state and string.match(state, '^(%S+)')
  if not status or string.find(ARGV[6], ' ' .. status .. ' ', 1, true) then
    redis.call('ZREM', KEYS[1], old[i])
    redis.call('HDEL', KEYS[2], old[i])
    redis.call('HDEL', KEYS[3], old[i])
  end
end
return text
"""

# KEYS 1 operation states of the tenant, 2 operation records
# ARGV 1 id, 2 new status, 3 the statuses that it may come from, each between spaces, 4 incarnation of the deciding node
#      process, 5 record (JSON)
# Answers {"ok", status before} or {"gone", ""} or {"refused", status} or {"fenced", incarnation that holds it}
MOVE_OPERATION = """
local state = redis.call('HGET', KEYS[1], ARGV[1])
if not state then return {'gone', ''} end
local status, holder = string.match(state, '^(%S+) (%d+)$')
if tonumber(holder) > tonumber(ARGV[4]) then return {'fenced', holder} end
if not string.find(ARGV[3], ' ' .. status .. ' ', 1, true) then return {'refused', status} end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. ARGV[4])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[5])
return {'ok', status}
"""

# KEYS 1 replay order of the tenant, 2 replays
# ARGV 1 key, 2 the claim to write, 3 a claim that may be replaced ('' for none), 4 how many are kept, 5 for how many ms
# Answers '' where the key is the caller's now, else what stands there
CLAIM_REPLAY = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local old = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - tonumber(ARGV[5])))
for i = 1, #old do
  redis.call('ZREM', KEYS[1], old[i])
  redis.call('HDEL', KEYS[2], old[i])
end
local there = redis.call('HGET', KEYS[2], ARGV[1])
if there and there ~= ARGV[3] then return there end
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[1])
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[4])
if over > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, over - 1)
  for i = 1, #oldest do
    redis.call('ZREM', KEYS[1], oldest[i])
    redis.call('HDEL', KEYS[2], oldest[i])
  end
end
return ''
"""

# KEYS 1 replays of the tenant
# ARGV 1 key, 2 the claim that the answer takes the place of, 3 the answer (JSON)
# Answers 1, or 0 where that claim is not there any more (nothing is written then)
KEEP_REPLAY = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return 1
"""

# KEYS 1 replay order of the tenant, 2 replays
# ARGV 1 key, 2 the claim that is given up
# Answers 1 where it was that claim's, else 0
FREE_REPLAY = """
if redis.call('HGET', KEYS[2], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
return redis.call('HDEL', KEYS[2], ARGV[1])
"""
