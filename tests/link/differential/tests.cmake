# The differential test against ld.lld and llvm-jitlink.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
find_package(Python3 REQUIRED COMPONENTS Interpreter)
add_test(NAME differential COMMAND "${Python3_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/differential.py" --tenon
  "$<TARGET_FILE:tenon-cli>" --scratch "${CMAKE_CURRENT_BINARY_DIR}/differential" --lld "${LLVM_TOOLS_BINARY_DIR}/ld.lld" --clang
  "${LLVM_TOOLS_BINARY_DIR}/clang" --jitlink "${LLVM_TOOLS_BINARY_DIR}/llvm-jitlink")
set_tests_properties(differential PROPERTIES TIMEOUT 600 LABELS differential)
