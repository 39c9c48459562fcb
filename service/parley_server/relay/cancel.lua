-- Requests the cancellation of a reply. The owner receives a message, or finds the request with its next append or
-- heartbeat.
--
-- KEYS: the reply. ARGV: TTL in ms, the owner's channel, the message for it.
redis.call('HSET', KEYS[1], 'cancel', 1)
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end
return redis.call('PUBLISH', ARGV[2], ARGV[3])
