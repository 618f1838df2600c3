-- Errors: pcall, xpcall with tracebacks, error objects, runtime errors of every kind, stack overflow, and one that is not
-- caught.
-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
print(pcall(error, "plain"), pcall(error), select(2, pcall(error, {code = 3})).code)
print(xpcall(function() local t = nil; return t.x end, function(m) return "handled: " .. m:gsub(".*/", "") end))
local function strip(ok, m) return ok, (tostring(m):gsub("[^ ]*/", "")) end
print(strip(pcall(function() return 1 + {} end)))
print(strip(pcall(function() return #5 end)))
print(strip(pcall(function() return {} < {} end)))
print(strip(pcall(function() return 1 // 0 end)))
print(strip(pcall(function() undefined_function() end)))
print(strip(pcall(string.rep, "x", -1)), strip(pcall(string.rep)))
local function overflow(n) return 1 + overflow(n + 1) end
local ok, message = pcall(overflow, 1)
print(ok, message:match("stack overflow"))
print(load("x ="))
print(load("return ...", "chunk", "t", {})(7))
local trace = select(2, xpcall(function() error("deep") end, debug.traceback))
print(trace:match("stack traceback") ~= nil)
for depth = 1, 200 do
  local good, e = pcall(function() local function f(n) if n == 0 then error(depth, 0) end f(n - 1) end f(depth) end)
  assert(not good and e == depth)
end
error("not caught")
