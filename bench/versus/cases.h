// Cases: what is measured under one name, and the row of figures that comes out.
//
// A new case is an entry in the list that its file's function returns, and a call of that function in main.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "measure.h"

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace versus {

struct Settings {
  std::size_t repeat = 0; // rounds; 0: as many as the case thinks right
  bool full = false;      // cases that have a long form run that
  std::string system_libraries = "/usr/lib/x86_64-linux-gnu";
  std::string llvm_libraries = "/usr/lib/llvm-22/lib";
  std::function<void(const std::string&)> progress; // never null
};

struct Figure {
  std::string name; // the key: a participant, or a participant and a variation
  Samples samples;
  Samples removal;       // taking it out again, not part of the above; empty if that isn't measured
  std::string unit = {}; // another than the row's: beside the row's figures, not compared with them
};

struct Row {
  std::string case_name;
  std::string unit;
  std::vector<Figure> figures; // in the order of the columns; a participant that failed is missing
  std::string note;            // one line on the input
  std::vector<std::string> faults;
};

struct Case {
  std::string name;
  std::string about;
  std::function<Row(const Settings&)> run;
  bool on_request = false; // takes long: only when a pattern names it, or in the full form
};

// link/lua, link/sqlite, link/zstd, link/llvm (case_link.cpp).
std::vector<Case> link_cases();
// link/llvm-cold, link/llvm-2t (case_link_first.cpp).
std::vector<Case> link_first_cases();
// link/llvm-all and its memory (case_link_all.cpp).
std::vector<Case> link_all_cases();
// call/1, call/1k, call/10k (case_call.cpp).
std::vector<Case> call_cases();
// redirect/one, redirect/batch (case_redirect.cpp).
std::vector<Case> redirect_cases();
// swap/p50, swap/p99 (case_swap.cpp).
std::vector<Case> swap_cases();
// swap/caller (case_swap_caller.cpp).
std::vector<Case> swap_caller_cases();
// swap/memory (case_swap_memory.cpp).
std::vector<Case> swap_memory_cases();
// reclaim/p99 (case_reclaim.cpp).
std::vector<Case> reclaim_cases();
// collect/step (case_collect.cpp).
std::vector<Case> collect_cases();
// many/1k, many/10k, many/100k, many/1m (case_many.cpp).
std::vector<Case> many_cases();
// many/chain (case_many_chain.cpp).
std::vector<Case> many_chain_cases();
// remove/fifo, remove/lifo, remove/random, teardown (case_remove.cpp).
std::vector<Case> remove_cases();
// engine/create, library/churn (case_engine.cpp).
std::vector<Case> engine_cases();
// lookup/1t, lookup/2t (case_lookup.cpp).
std::vector<Case> lookup_cases();
// throw (case_throw.cpp).
std::vector<Case> throw_cases();
// abort (case_abort.cpp).
std::vector<Case> abort_cases();
// memory/llvm (case_memory.cpp).
std::vector<Case> memory_cases();

} // namespace versus
