// The floors: what no linker can leave out.
//
// `floor` maps fresh private memory, takes its page faults, copies the sections, stores once per relocation, and protects
// the result. `floor_warm` does the copies and stores in memory that has been faulted in before: what remains for a linker
// that reuses its memory. Neither looks at a symbol, COMDAT copies that lose are left out, and the relocations' places come
// from a flat list made beforehand.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "participant.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace versus {

Participant::~Participant() = default;

namespace {

Error failed(const char* call) { return Error{ErrorCode::system, std::string(call) + ": " + std::strerror(errno)}; }

// The stored values depend on the image's address, as a relocation's would.
void copy_and_store(const FloorPlan& plan, char* image) {
  for (const FloorPlan::Copy& copy : plan.copies) std::memcpy(image + copy.offset, copy.from, copy.size);
  auto value = static_cast<std::uint64_t>(reinterpret_cast<std::uintptr_t>(image));
  for (const FloorPlan::Store& store : plan.stores) {
    std::uint64_t fixed = value + store.offset;
    if (store.wide)
      std::memcpy(image + store.offset, &fixed, 8);
    else
      std::memcpy(image + store.offset, &fixed, 4);
  }
}

class Image {
public:
  Image() = default;
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
  ~Image() { unmap(); }

  bool map(std::size_t size) {
    void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return false;
    begin_ = static_cast<char*>(memory);
    size_ = size;
    return true;
  }
  void unmap() {
    if (begin_ != nullptr) munmap(begin_, size_);
    begin_ = nullptr;
  }
  bool protect(const FloorPlan& plan, FloorPlan::Segment segment, int protection) {
    return plan.size[segment] == 0 || mprotect(begin_ + plan.start[segment], plan.size[segment], protection) == 0;
  }
  char* begin() const { return begin_; }

private:
  char* begin_ = nullptr;
  std::size_t size_ = 0;
};

class Floor final : public Participant {
public:
  const char* name() const override { return "floor"; }
  bool links() const override { return false; }
  Result<void> link(const InputSet& set, std::vector<std::uint64_t>&) override {
    if (!image_.map(set.plan.total)) return failed("mmap");
    copy_and_store(set.plan, image_.begin());
    if (!image_.protect(set.plan, FloorPlan::code, PROT_READ | PROT_EXEC)) return failed("mprotect");
    if (!image_.protect(set.plan, FloorPlan::rodata, PROT_READ)) return failed("mprotect");
    return {};
  }
  Result<void> remove() override {
    image_.unmap();
    return {};
  }

private:
  Image image_;
};

class FloorWarm final : public Participant {
public:
  const char* name() const override { return "floor_warm"; }
  bool links() const override { return false; }
  Result<void> link(const InputSet& set, std::vector<std::uint64_t>&) override {
    if (image_.begin() == nullptr && !image_.map(set.plan.total)) return failed("mmap"); // the untimed first round
    copy_and_store(set.plan, image_.begin());
    return {};
  }
  Result<void> remove() override { return {}; }

private:
  Image image_;
};

} // namespace

std::unique_ptr<Participant> make_floor() { return std::make_unique<Floor>(); }
std::unique_ptr<Participant> make_floor_warm() { return std::make_unique<FloorWarm>(); }

} // namespace versus
