-- Closes a log to writers of a lower epoch.
--
-- KEYS: the reply. ARGV: the epoch, TTL in ms. Answer: the epoch of the last writer; nil if nothing was written.
local known = redis.call('HMGET', KEYS[1], 'fence', 'writer')
if not known[1] or tonumber(known[1]) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'fence', ARGV[1])
  if redis.call('PTTL', KEYS[1]) < 0 then
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
  end
end
return known[2]
