-- Reports readers of these replies on a replica that does not own them.
--
-- KEYS: the replies. ARGV: TTL in ms for replies that do not exist yet. Answer: the time in ms.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, reply in ipairs(KEYS) do
  redis.call('HSET', reply, 'seen', now)
  if redis.call('PTTL', reply) < 0 then
    redis.call('PEXPIRE', reply, ARGV[1])
  end
end
return now
