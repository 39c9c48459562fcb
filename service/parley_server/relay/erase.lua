-- Deletes replies. A fence above every epoch stays for as long as a writer could be alive, so that a late append cannot
-- create the reply again.
--
-- KEYS: the replies. ARGV: TTL of the fence in ms, the fence. Answer: the number of replies.
for _, reply in ipairs(KEYS) do
  local writer = tonumber(redis.call('HGET', reply, 'writer') or 0)
  -- A takeover ends the reply, so few epochs are ever written. Streams of older epochs expire.
  for epoch = math.max(1, writer - 8), writer do
    redis.call('UNLINK', reply .. ':log:' .. epoch)
  end
  redis.call('UNLINK', reply)
  redis.call('HSET', reply, 'fence', ARGV[2])
  redis.call('PEXPIRE', reply, ARGV[1])
end
return #KEYS
