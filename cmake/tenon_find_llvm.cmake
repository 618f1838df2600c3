# Finds LLVM 22 (its releases start at 22.1, and its package wants the minor version, too) and wraps it in the interface
# target tenon_uses_llvm; sets TENON_LLVM_FOUND.
#
# LLVM is used as one shared library: two copies of it in one process (a client that links libLLVM itself) would not survive
# each other. It is built without run-time type information, so everything that includes its headers is compiled without,
# too: otherwise a class derived from one of LLVM's would look for type information that isn't there.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set(TENON_LLVM_FOUND OFF)
if(TENON_LLVM)
  find_package(LLVM 22.1 CONFIG QUIET HINTS /usr/lib/llvm-22)
  if(LLVM_FOUND AND TARGET LLVM)
    set(TENON_LLVM_FOUND ON)
    message(STATUS "LLVM ${LLVM_PACKAGE_VERSION} in ${LLVM_DIR}")
  else()
    message(STATUS "LLVM 22 (shared) not found: only libtenon and its tests are built")
  endif()
endif()

add_library(tenon_uses_llvm INTERFACE)
if(TENON_LLVM_FOUND)
  target_include_directories(tenon_uses_llvm SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS})
  target_compile_options(tenon_uses_llvm INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti>)
  target_link_libraries(tenon_uses_llvm INTERFACE LLVM)
endif()
