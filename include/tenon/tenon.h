// Everything of the library `tenon` in one include. See README.md for a first program, engine.h for where to begin.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include <tenon/addr.h>
#include <tenon/change.h>
#include <tenon/engine.h>
#include <tenon/library.h>
#include <tenon/memory.h>
#include <tenon/object.h>
#include <tenon/redirect.h>
#include <tenon/result.h>
