-- How logs stand of which nothing was heard.
--
-- KEYS: for each reply, it and the stream that is followed. Answer, for each: the stream's last number, whether it ended.
local answer = {}
for i = 1, #KEYS, 2 do
  answer[i] = redis.call('XLEN', KEYS[i + 1])
  answer[i + 1] = redis.call('HEXISTS', KEYS[i], 'ended')
end
return answer
