-- Returns the state of logs of which no message came.
--
-- KEYS: for each reply, the reply and the stream that is followed.
-- Answer, for each reply: the stream's last number, whether the reply has ended.
local answer = {}
for i = 1, #KEYS, 2 do
  answer[i] = redis.call('XLEN', KEYS[i + 1])
  answer[i + 1] = redis.call('HEXISTS', KEYS[i], 'ended')
end
return answer
