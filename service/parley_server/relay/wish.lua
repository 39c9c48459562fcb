-- Somebody wishes to cancel a reply: its owner is told at once, or finds it with its next append or heartbeat.
--
-- KEYS: the reply. ARGV: time to live, the owner's channel, what to tell there.
redis.call('HSET', KEYS[1], 'cancel', 1)
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('PUBLISH', ARGV[2], ARGV[3])
