# Installation: headers, both libraries, the command line, and a package so that find_package(tenon) gives tenon::tenon and,
# where LLVM 22 is found, tenon::llvm.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
include(CMakePackageConfigHelpers)
set(tenon_package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/tenon")

set(has_llvm OFF)
if(TARGET tenon-llvm)
  get_target_property(type tenon-llvm TYPE)
  if(NOT type STREQUAL "INTERFACE_LIBRARY")
    set(has_llvm ON)
  endif()
endif()

# Shared libraries are found from where the command line stands, so that any prefix works.
if(BUILD_SHARED_LIBS)
  set_target_properties(tenon PROPERTIES INSTALL_RPATH "$ORIGIN")
  if(has_llvm)
    set_target_properties(tenon-llvm PROPERTIES INSTALL_RPATH "$ORIGIN")
  endif()
  if(TARGET tenon-cli)
    file(RELATIVE_PATH libraries "${CMAKE_INSTALL_FULL_BINDIR}" "${CMAKE_INSTALL_FULL_LIBDIR}")
    set_target_properties(tenon-cli PROPERTIES INSTALL_RPATH "$ORIGIN/${libraries}")
  endif()
endif()

install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/tenon" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING PATTERN "*.h")
install(TARGETS tenon EXPORT tenonTargets)
install(EXPORT tenonTargets NAMESPACE tenon:: DESTINATION "${tenon_package_dir}")
if(has_llvm)
  install(TARGETS tenon-llvm EXPORT tenonLlvmTargets)
  install(EXPORT tenonLlvmTargets NAMESPACE tenon:: DESTINATION "${tenon_package_dir}")
endif()
if(TARGET tenon-cli)
  install(TARGETS tenon-cli RUNTIME)
endif()

configure_package_config_file("${PROJECT_SOURCE_DIR}/cmake/tenonConfig.cmake.in" "${PROJECT_BINARY_DIR}/tenonConfig.cmake"
  INSTALL_DESTINATION "${tenon_package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/tenonConfigVersion.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/tenonConfig.cmake" "${PROJECT_BINARY_DIR}/tenonConfigVersion.cmake"
  DESTINATION "${tenon_package_dir}")
