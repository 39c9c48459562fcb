-- Somebody reads these replies, on a replica that is not their owner's.
--
-- KEYS: the replies. ARGV: time to live of what is not there yet.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, reply in ipairs(KEYS) do
  redis.call('HSET', reply, 'seen', now)
  if redis.call('PTTL', reply) < 0 then
    redis.call('PEXPIRE', reply, ARGV[1])
  end
end
return now
