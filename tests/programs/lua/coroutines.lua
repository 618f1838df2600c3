-- Coroutines: generators, errors inside them, wrapping, yielding across pcall, closing.
-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
local function generate(n)
  return coroutine.wrap(function() for i = 1, n do coroutine.yield(i, i * i) end end)
end
for i, square in generate(5) do io.write(i, "=", square, " ") end
print()
local co = coroutine.create(function(a, b)
  local c = coroutine.yield(a + b)
  local ok, message = pcall(function() coroutine.yield(c * 2); error({code = c}) end)
  coroutine.yield(ok, message.code)
  error("final")
end)
print(coroutine.resume(co, 1, 2))
print(coroutine.resume(co, 21))
print(coroutine.resume(co))
print(coroutine.resume(co))
print(coroutine.status(co), coroutine.resume(co))
local function permutations(list, n)
  n = n or #list
  if n <= 1 then coroutine.yield(list) else
    for i = 1, n do
      list[n], list[i] = list[i], list[n]
      permutations(list, n - 1)
      list[n], list[i] = list[i], list[n]
    end
  end
end
local count, last = 0
for p in coroutine.wrap(function() permutations({1, 2, 3, 4, 5, 6}) end) do count = count + 1; last = table.concat(p) end
print(count, last)
local threads = {}
for i = 1, 2000 do threads[i] = coroutine.create(function() return coroutine.yield(i) end) end
local sum = 0
for _, thread in ipairs(threads) do local _, v = coroutine.resume(thread); sum = sum + v end
print(sum, coroutine.close(threads[1]), coroutine.isyieldable())
return sum
