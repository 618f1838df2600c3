# Language level, warnings, sanitizers and the compiler cache, in one place.
#
# Warnings are errors only for our own sources, and only where this is the project being built: they hang on the interface target
# tenon_warnings, which is never exported.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/bin")
set(CMAKE_ARCHIVE_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/lib")

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(TENON_CCACHE ccache)
mark_as_advanced(TENON_CCACHE)
if(TENON_CCACHE AND PROJECT_IS_TOP_LEVEL)
  foreach(language IN ITEMS C CXX)
    if(NOT CMAKE_${language}_COMPILER_LAUNCHER)
      set(CMAKE_${language}_COMPILER_LAUNCHER "${TENON_CCACHE}")
    endif()
  endforeach()
endif()

add_library(tenon_warnings INTERFACE)
target_compile_options(tenon_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra>)
if(PROJECT_IS_TOP_LEVEL)
  target_compile_options(tenon_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Werror>)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # Sees overlapping copies inside std::string at -O3 that are not there (GCC bug 105329).
  target_compile_options(tenon_warnings INTERFACE -Wno-restrict)
endif()

set(tenon_sanitize_flags "")
if(TENON_SANITIZE)
  # `vptr` needs run-time type information that libLLVM lacks. `function` reads a signature in front of each callee, which
  # code that a JIT linker placed does not have.
  set(tenon_sanitize_flags -fsanitize=${TENON_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  if(TENON_SANITIZE MATCHES "undefined")
    list(APPEND tenon_sanitize_flags -fno-sanitize=vptr)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
      list(APPEND tenon_sanitize_flags -fno-sanitize=function)
    endif()
  endif()
  add_compile_options(${tenon_sanitize_flags})
  add_link_options(${tenon_sanitize_flags})
endif()
