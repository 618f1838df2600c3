// Runs the Lua scripts that are named on the command line, each in a state of its own, and a few calls of the C interface.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>

static int sum(lua_State* L) {
  lua_Number total = 0;
  for (int i = 1; i <= lua_gettop(L); i++) total += luaL_checknumber(L, i);
  lua_pushnumber(L, total);
  return 1;
}

static int fail(lua_State* L) { return luaL_error(L, "C says no: %d", (int)luaL_checkinteger(L, 1)); }

int main(int argc, char** argv) {
  int failed = 0;
  for (int i = 1; i < argc; i++) {
    lua_State* L = luaL_newstate();
    luaL_openlibs(L);
    lua_register(L, "c_sum", sum);
    lua_register(L, "c_fail", fail);
    const char* name = strrchr(argv[i], '/');
    printf("== %s\n", name ? name + 1 : argv[i]);
    fflush(stdout);
    if (luaL_dofile(L, argv[i]) != LUA_OK) {
      const char* message = strrchr(lua_tostring(L, -1), '/');
      printf("error: %s\n", message ? message + 1 : lua_tostring(L, -1));
      failed++;
    } else if (lua_isinteger(L, -1)) {
      printf("result %lld\n", (long long)lua_tointeger(L, -1));
    }
    lua_close(L);
  }
  return failed;
}
