// The client's own memory: blocks come from an allocator of the client's, and linked bytes can be taken away as plain bytes.
//
// One block for each section, each on pages of its own, in one mapping, so that all of them are within reach of each other.
// Pages are writable while the linker fills them and get their final permissions in publish(), before anything can run: none
// is ever writable and executable.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/llvm.h>
#include <tenon/tenon.h>

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <map>

namespace {

template <class T> T need(tenon::Result<T> result) {
  if (result) return std::move(*result);
  std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::exit(1);
}

class Pages : public tenon::Memory {
public:
  tenon::Result<void> place(std::span<const tenon::BlockRequest> requests, std::span<tenon::Placement> placements) override {
    std::size_t total = 0;
    for (const tenon::BlockRequest& request : requests) total += rounded(request.size);
    void* memory = mmap(nullptr, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      return tenon::Error{tenon::ErrorCode::exhausted, "no pages for " + std::to_string(total) + " bytes"};
    auto* at = static_cast<std::byte*>(memory);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      placements[i] = {tenon::Addr::of(at), at};
      blocks_[at] = {rounded(requests[i].size), requests[i].access};
      at += rounded(requests[i].size);
    }
    return {};
  }

  tenon::Result<void> publish(std::span<const tenon::Placement> placements) override {
    for (const tenon::Placement& placement : placements) {
      const Block& block = blocks_.at(placement.local);
      const int protection = PROT_READ | (has(block.access, tenon::Access::write) ? PROT_WRITE : 0) |
                             (has(block.access, tenon::Access::execute) ? PROT_EXEC : 0);
      if (mprotect(placement.local, block.size, protection) != 0)
        return tenon::Error{tenon::ErrorCode::system, "mprotect failed"};
    }
    return {};
  }

  void release(const tenon::Placement& placement) noexcept override {
    const auto block = blocks_.find(placement.local);
    munmap(block->first, block->second.size);
    blocks_.erase(block);
  }

  std::size_t blocks() const { return blocks_.size(); }

private:
  struct Block {
    std::size_t size;
    tenon::Access access;
  };
  static std::size_t rounded(std::size_t size) { return (size + 4095) & ~std::size_t(4095); }
  std::map<std::byte*, Block> blocks_;
};

constexpr std::string_view counter = R"(
@count = global i32 40
define i32 @next() {
  %old = load i32, ptr @count
  %new = add i32 %old, 1
  store i32 %new, ptr @count
  ret i32 %new
}
)";

} // namespace

int main() {
  Pages pages; // outlives the engine, and so every module
  tenon::Compiler compiler = need(tenon::Compiler::create());
  tenon::Object object = need(compiler.compile_ir(std::as_bytes(std::span(counter)), "counter.ll"));
  tenon::Engine engine = need(tenon::Engine::create());
  tenon::Library library = need(engine.library());

  // Run it from the client's pages.
  tenon::Change change = engine.change();
  change.add(library, object);
  auto committed = need(need(need(need(std::move(change).draft()).place(pages)).link()).commit());
  int result = 0;
  {
    auto next = need(library.function<int()>("next"));
    next();
    result = next();
  }
  std::printf("next() = %d, in %zu blocks\n", result, pages.blocks());

  // Take it out again: every block comes back.
  tenon::Change removal = engine.change();
  removal.remove(committed.module({0}));
  need(need(need(need(std::move(removal).draft()).place()).link()).commit());
  std::printf("removed, %zu blocks are left\n", pages.blocks());

  // The same object for addresses elsewhere: only bytes come out.
  tenon::Change elsewhere = engine.change();
  elsewhere.add(library, object);
  tenon::Draft draft = need(std::move(elsewhere).draft());
  const auto requests = need(draft.blocks(tenon::Granularity::section));
  std::vector<tenon::Addr> addresses;
  std::vector<std::vector<std::byte>> images;
  for (const tenon::BlockRequest& request : requests) {
    addresses.push_back({0x10000000 + 0x10000 * std::uint64_t(addresses.size())});
    images.emplace_back(request.size);
  }
  tenon::Linked linked = need(need(std::move(draft).place(tenon::Granularity::section, addresses)).link());
  const std::vector<std::span<std::byte>> buffers(images.begin(), images.end());
  if (const auto copied = linked.copy_out(buffers); !copied) return 1;
  for (std::size_t i = 0; i < requests.size(); ++i)
    std::printf("0x%llx: %zu bytes of %s\n", static_cast<unsigned long long>(addresses[i].value), images[i].size(),
                requests[i].name.c_str());
  return result == 42 && pages.blocks() == 0 && !requests.empty() ? 0 : 1;
}
