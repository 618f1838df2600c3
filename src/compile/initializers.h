// Takes the one initializer that a front end makes for a file apart, into one for each variable.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <llvm/IR/Module.h>

namespace tenon::compile_layer {

// Before any optimization. An entry of llvm.global_ctors whose function does nothing but call others becomes an entry for
// each of these, in the same order and with the same priority. One that initializes a single variable, as far as can be told
// for sure, is named `__tenon_init.` and the variable's symbol; the others keep the names they have.
void split_initializers(llvm::Module& module);

} // namespace tenon::compile_layer
