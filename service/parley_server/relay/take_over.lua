-- Closes a log to writers of an epoch lower than this one.
--
-- KEYS: the reply. ARGV: the epoch, time to live. Answer: the epoch of the last writer; nothing where there was none.
local known = redis.call('HMGET', KEYS[1], 'fence', 'writer')
if not known[1] or tonumber(known[1]) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
  if redis.call('PTTL', KEYS[1]) < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return known[2]
