-- Counts a member in a window that moves with time, unless the window is full. A member counts once.
--
-- KEYS: the window. ARGV: its length in ms, the limit, the member.
-- Returns 0 (refused), 1 (taken) or 2 (was there); the members in the window; the ms until there is room.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local window, limit, member = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
-- This write comes first in any case: a Redis that is out of memory refuses a script whose first write adds data.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - window)
local used = redis.call('ZCARD', KEYS[1])
if redis.call('ZSCORE', KEYS[1], member) then
  return {2, used, 0}
end
if used >= limit then
  -- After the limit was lowered, several members must leave before there is room.
  local last_to_leave = redis.call('ZRANGE', KEYS[1], used - limit, used - limit, 'WITHSCORES')[2]
  return {0, used, last_to_leave + window - now}
end
redis.call('ZADD', KEYS[1], now, member)
redis.call('PEXPIRE', KEYS[1], window)
return {1, used + 1, 0}
