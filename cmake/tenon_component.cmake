# One target per folder of src/, and the library that is made of them.
#
# tenon_component(NAME DEPENDS a b [LIBS x y]) makes the object library tenon_NAME from every .cpp and .S file below the
# calling folder. A folder without sources becomes an interface target, so that headers-only folders are no special case. The
# objects reach the library `tenon` through a global list rather than through target_link_libraries, so that an installed
# `tenon` does not drag folder targets along.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
function(tenon_component name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "DEPENDS;LIBS")
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS *.cpp *.S)
  if(sources)
    add_library(tenon_${name} OBJECT ${sources})
    set(scope PUBLIC)
    target_link_libraries(tenon_${name} PRIVATE tenon_warnings)
    set_property(GLOBAL APPEND PROPERTY tenon_objects "$<TARGET_OBJECTS:tenon_${name}>")
  else()
    add_library(tenon_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(tenon_${name} ${scope} "${PROJECT_SOURCE_DIR}/include" "${PROJECT_SOURCE_DIR}/src")
  list(TRANSFORM arg_DEPENDS PREPEND tenon_)
  target_link_libraries(tenon_${name} ${scope} ${arg_DEPENDS} ${arg_LIBS})
endfunction()

function(tenon_library)
  get_property(objects GLOBAL PROPERTY tenon_objects)
  add_library(tenon ${objects})
  add_library(tenon::tenon ALIAS tenon)
  set_target_properties(tenon PROPERTIES
    LINKER_LANGUAGE CXX VERSION "${PROJECT_VERSION}" SOVERSION "${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}")
  target_compile_features(tenon PUBLIC cxx_std_20)
  target_include_directories(tenon PUBLIC
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>" "$<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>")
  # zstd by its bare name: Debian ships no CMake package for it, and a path found here would be wrong on the
  # machine of a consumer.
  target_link_libraries(tenon PUBLIC Threads::Threads PRIVATE ZLIB::ZLIB zstd Zydis ${CMAKE_DL_LIBS})
endfunction()
