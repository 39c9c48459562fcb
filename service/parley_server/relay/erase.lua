-- Forgets replies. What is left of each is a fence that nobody passes, for as long as a writer could still be alive.
--
-- KEYS: the replies. ARGV: time to live of the fence, the fence.
for _, reply in ipairs(KEYS) do
  local writer = tonumber(redis.call('HGET', reply, 'writer') or 0)
  -- Each takeover ends a reply: more than a few epochs are never written, and what an older one left expires.
  for epoch = math.max(1, writer - 8), writer do
    redis.call('UNLINK', reply .. ':log:' .. epoch)
  end
  redis.call('UNLINK', reply)
  redis.call('HSET', reply, 'fence', ARGV[2])
  redis.call('PEXPIRE', reply, ARGV[1])
end
return #KEYS
