-- Garbage: weak tables, finalizers, both collector modes, much allocation.
-- SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
local weak = setmetatable({}, {__mode = "v"})
for i = 1, 100 do weak[i] = {i} end
collectgarbage()
local alive = 0
for _ in pairs(weak) do alive = alive + 1 end
print("weak", alive)
local finalized = 0
for _ = 1, 50 do setmetatable({}, {__gc = function() finalized = finalized + 1 end}) end
collectgarbage()
print("finalized", finalized)
for _, mode in ipairs{"incremental", "generational"} do
  collectgarbage(mode)
  local root
  for i = 1, 30000 do
    root = {next = i % 100 ~= 0 and root or nil, value = tostring(i), list = {i, i + 1}}
  end
  local n, node = 0, root
  while node do n = n + #node.value; node = node.next end
  print(mode, n)
end
local ephemeron = setmetatable({}, {__mode = "k"})
do local key = {}; ephemeron[key] = {key} end
collectgarbage()
print("ephemeron", next(ephemeron))
setmetatable({}, {__gc = function() print("at close") end})
print(collectgarbage("count") > 0)
return finalized
