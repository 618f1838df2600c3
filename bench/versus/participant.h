// Who takes part: each links a whole set and looks names up, the way an embedder who knows it well would.
//
// A participant is made once for a case and stays warm; every round links the set afresh and takes it out again. Only link()
// is timed. Tenon's and the peers' sit behind this interface so that a case does not know whom it measures.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once

#include "inputs.h"

#include <cstdint>
#include <memory>
#include <vector>

namespace tenon {
class Engine;
}

namespace versus {

class Participant {
public:
  virtual ~Participant();

  // Its key in the table.
  virtual const char* name() const = 0;
  // Parses, resolves, places and relocates every object of the set, registers its frames and looks up set.names: their
  // addresses go into `found`, in order, which the caller has sized. On return the code can be called.
  virtual Result<void> link(const InputSet& set, std::vector<std::uint64_t>& found) = 0;
  // Takes out what link() put in, also after it failed.
  virtual Result<void> remove() = 0;
  // The floors copy and store but link nothing, so there is nothing to call.
  virtual bool links() const { return true; }
};

std::unique_ptr<Participant> make_tenon();
// In an engine that others link into as well.
std::unique_ptr<Participant> make_tenon_in(const tenon::Engine& engine);
std::unique_ptr<Participant> make_floor();
std::unique_ptr<Participant> make_floor_warm();
std::unique_ptr<Participant> make_jitlink();
std::unique_ptr<Participant> make_orc();
std::unique_ptr<Participant> make_orc_rtdyld();
std::unique_ptr<Participant> make_rtdyld();

} // namespace versus
