-- Closures, varargs, metatables, sorting, integer and float arithmetic, goto.
-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
local function counter(step)
  local n = 0
  return function() n = n + step; return n end
end
local a, b = counter(1), counter(10)
for _ = 1, 5 do a() b() end
print(a(), b())
local function variadic(...) return select('#', ...), ... end
print(variadic(1, nil, "x", nil))
local V = {}
V.__index = V
V.__add = function(x, y) return setmetatable({x = x.x + y.x}, V) end
V.__tostring = function(v) return "V(" .. v.x .. ")" end
V.__call = function(self, n) return self.x * n end
V.__lt = function(x, y) return x.x < y.x end
V.__len = function(v) return v.x end
V.__close = function(v) print("close", v) end
local v = setmetatable({x = 3}, V) + setmetatable({x = 4}, V)
print(tostring(v), v(6), #v, v < setmetatable({x = 8}, V))
do local scoped <close> = v end
local list = {}
for i = 1, 200 do list[i] = (i * 7919) % 211 end
table.sort(list, function(x, y) return x > y end)
print(table.concat(list, ",", 1, 12), #list)
print(7 // 2, -7 // 2, 7 % -3, 7.5 // 2, 2 ^ 10, 1 << 62, 3 & 5, 3 | 5, 3 ~ 5, ~0, 10 / 2, math.maxinteger + 1 == math.mininteger)
for i = 1, 3 do
  for j = 1, 3 do
    if j == 2 then goto continue end
    io.write(i, ":", j, " ")
    ::continue::
  end
end
print()
print(c_sum(1, 2.5, 3), pcall(c_fail, 5))
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
return fib(24)
