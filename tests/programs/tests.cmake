# One ctest for each of the programs in programs.toml, so that they run side by side and fail by name.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
find_package(Python3 REQUIRED COMPONENTS Interpreter)
set(run_programs "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/run_programs.py")
execute_process(COMMAND ${run_programs} --list OUTPUT_VARIABLE program_names OUTPUT_STRIP_TRAILING_WHITESPACE
  COMMAND_ERROR_IS_FATAL ANY)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/programs.toml")
string(REPLACE "\n" ";" program_names "${program_names}")
# A sanitizer takes the addresses near the libraries: what is about the host's data being near cannot be shown there.
if(TENON_SANITIZE)
  list(REMOVE_ITEM program_names host_data_gnu)
endif()
foreach(name IN LISTS program_names)
  add_test(NAME programs/${name} COMMAND ${run_programs} --tenon "$<TARGET_FILE:tenon-cli>" --scratch
    "${CMAKE_CURRENT_BINARY_DIR}/programs" --clang "${LLVM_TOOLS_BINARY_DIR}/clang" --third-party
    "${PROJECT_SOURCE_DIR}/build/third_party" ${name})
  set_tests_properties(programs/${name} PROPERTIES TIMEOUT 600 LABELS programs)
endforeach()
