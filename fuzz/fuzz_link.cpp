// Arbitrary bytes as objects and archives on their way through all stages of a change but the last: drafted, edited, placed
// in the engine's memory, in a client's and at plain addresses near and far, linked, looked at, copied out, dropped. Nothing
// of it is ever committed or executed. What counts is that nothing crashes, hangs, takes memory out of proportion, or stays
// behind.
//
// What is done with an object stands in bytes of its ELF header that mean nothing (e_ident[9] and on), so that seeds are
// plain objects: [9] the kind of what follows the first object, [10] and [11] flags, [12..15] where the second part begins.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <tenon/tenon.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace {

using namespace tenon;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

void check(const Error& error) { require(!error.message.empty(), "an error says what is wrong"); }

// Near: inside of the process, so that it is as near to the engine as a library of the host.
Addr address_nearby() { return Addr::of(&std::abort); }

// What it answers depends on nothing but the name.
struct NameResolver final : Resolver {
  Result<void> resolve(std::span<const Needed> needed, std::span<Answer> answers) noexcept override {
    for (std::size_t i = 0; i < needed.size(); ++i) {
      unsigned sum = 0;
      for (char c : needed[i].name) sum += static_cast<unsigned char>(c);
      switch (sum % 8) {
      case 0: break;
      case 1: answers[i] = Answer::null(); break;
      case 2:
      case 3: answers[i] = Answer::at({0x1000}); break;
      case 4: answers[i] = Answer::at({~std::uint64_t(0)}); break;
      default: answers[i] = Answer::at(address_nearby());
      }
    }
    return {};
  }
};

struct World {
  Engine engine;
  Library plain;  // searches the resolver
  Library hosted; // searches the process before
};

template <class T> T expect(Result<T> result) {
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  require(bool(result), "the fuzzer's own engine works");
  return std::move(result).value();
}

World make_world() {
  Options options;
  options.reservation_bytes = std::uint64_t(1) << 27;
  Engine engine = expect(Engine::create(options));
  World world{engine, expect(engine.library("plain")), expect(engine.library("hosted"))};
  auto resolver = std::make_shared<NameResolver>();
  require(bool(world.plain.search({Source::resolver(resolver)})), "a resolver is a source");
  require(bool(world.hosted.search({Source::process(), Source::resolver(resolver)})), "a process is a source");
  const Absolute symbols[] = {{"absolute", {0x1234}}, {"rebindable", address_nearby(), true}};
  require(bool(world.plain.define(symbols)) && bool(world.hosted.define(symbols)), "symbols can be defined");
  return world;
}

World& world() {
  static World* instance = new World(make_world());
  return *instance;
}

constexpr std::uint64_t most_bytes = std::uint64_t(1) << 24; // of blocks, beyond which the fuzzer has no memory to give

std::uint64_t total_size(std::span<const BlockRequest> requests) {
  std::uint64_t total = 0;
  for (const BlockRequest& request : requests) total = std::min(total + request.size, std::uint64_t(1) << 50);
  return total;
}

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

// One address for each block: one after another, or 4 GiB apart.
std::vector<Addr> addresses_for(std::span<const BlockRequest> requests, bool far, std::uint64_t first) {
  std::vector<Addr> addresses;
  std::uint64_t at = first;
  for (const BlockRequest& request : requests) {
    require(request.alignment != 0 && (request.alignment & (request.alignment - 1)) == 0, "alignments are powers of two");
    at = align_up(at, request.alignment);
    addresses.push_back({at});
    at += request.size + (far ? std::uint64_t(1) << 32 : 0);
  }
  return addresses;
}

// Parts of one block lie inside of it and do not overlap; thread-local zero fill has no bytes there.
void check_parts(const Draft& draft, std::span<const BlockRequest> requests) {
  std::vector<std::span<const SectionLayout>> sections;
  for (const ModuleLayout& layout : draft.layouts()) sections.push_back(layout.sections);
  for (const BlockRequest& request : requests) {
    struct Piece {
      std::uint64_t begin, end;
    };
    std::vector<Piece> pieces;
    for (const BlockRequest::Part& part : request.parts) {
      require(part.section.module.index < sections.size(), "a part belongs to a module of the draft");
      for (std::span<const SectionLayout> of = sections[part.section.module.index];
           const SectionLayout& section : of.first(std::min<std::size_t>(of.size(), 256)))
        if (section.id == part.section && section.kind != SectionKind::tls_zero && !section.synthetic && section.size != 0)
          pieces.push_back({part.offset, part.offset + section.size});
    }
    std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
    for (std::size_t i = 0; i < pieces.size(); ++i)
      require(pieces[i].end <= request.size && (i == 0 || pieces[i - 1].end <= pieces[i].begin),
              "the parts of a block lie apart inside of it");
  }
}

// Memory of exactly the sizes that are asked for, so that a sanitizer sees what is written past them.
struct ExactMemory final : Memory {
  explicit ExactMemory(Granularity cut) : granularity_(cut) {}

  Granularity granularity() const noexcept override { return granularity_; }
  Result<void> place(std::span<const BlockRequest> requests, std::span<Placement> placements) override {
    if (total_size(requests) > most_bytes) return Error{ErrorCode::exhausted, "that is too much"};
    std::vector<Addr> addresses = addresses_for(requests, false, 0x10000);
    for (std::size_t i = 0; i < requests.size(); ++i) placements[i] = {addresses[i], new std::byte[requests[i].size]};
    live_ += requests.size();
    return {};
  }
  Result<void> publish(std::span<const Placement>) override { return {}; }
  void release(const Placement& placement) noexcept override {
    delete[] placement.local;
    --live_;
  }
  ~ExactMemory() override { require(live_ == 0, "a dropped change releases the client's memory"); }

private:
  Granularity granularity_;
  std::size_t live_ = 0;
};

std::uint64_t sum_of(Bytes bytes) {
  std::uint64_t sum = 0;
  for (std::byte byte : bytes) sum += std::to_integer<unsigned>(byte);
  return sum;
}

volatile std::uint64_t sink; // reads must not be optimized away

void look_at(const Linked& linked) {
  std::uint64_t sum = 0;
  for (const PlacedSection& section : linked.sections())
    sum += sum_of(linked.bytes(section.id)) + linked.relocations(section.id).size() + section.name.size();
  const std::vector<PlacedSymbol> symbols = linked.symbols().value();
  for (const PlacedSymbol& symbol : symbols) sum += symbol.address.value + static_cast<unsigned char>(symbol.name.front());
  const std::vector<LinkerEntry> entries = linked.entries().value();
  for (const LinkerEntry& entry : entries) sum += entry.address.value + entry.target.value;
  sink = sum;
}

void link(Result<Placed> placed, std::span<const BlockRequest> copied) {
  if (!placed) return check(placed.error());
  sink = placed->sections().size();
  Result<Linked> linked = std::move(*placed).link();
  if (!linked) return check(linked.error());
  look_at(*linked);
  if (copied.empty() || total_size(copied) > most_bytes) return;
  std::vector<std::vector<std::byte>> bytes;
  std::vector<std::span<std::byte>> buffers;
  for (const BlockRequest& request : copied) bytes.emplace_back(request.size);
  for (std::vector<std::byte>& buffer : bytes) buffers.emplace_back(buffer);
  if (Result<void> done = linked->copy_out(buffers); !done) check(done.error());
}

struct Plan {
  unsigned second = 0; // what follows the first object: 0 nothing, 1 another object, 2 an archive
  unsigned flags = 0;
  std::size_t split = 0;

  bool has(unsigned bit) const noexcept { return (flags & bit) != 0; }
};

enum : unsigned {
  cut_by_function = 1,
  cut_whole = 2,
  far_apart = 4,
  client_memory = 8,
  low_addresses = 16,
  any_forward = 32,
  keep_debug = 64,
  no_unwinding = 128,
  ask_process = 256,
  edit_symbols = 512,
};

Plan plan_of(Bytes bytes) {
  Plan plan;
  if (bytes.size() < 16) return plan;
  auto at = [&](std::size_t i) { return std::to_integer<unsigned>(bytes[i]); };
  plan.second = at(9) % 3;
  plan.flags = at(10) | at(11) << 8;
  plan.split = at(12) | at(13) << 8 | at(14) << 16 | at(15) << 24;
  if (plan.split == 0 || plan.split >= bytes.size()) plan.second = 0;
  return plan;
}

// The change of the plan, drafted; nothing if it can't be.
std::optional<Draft> draft(Bytes bytes, const Plan& plan) {
  World& in = world();
  Library library = plan.has(ask_process) ? in.hosted : in.plain;
  ModuleOptions options;
  options.debug_sections = plan.has(keep_debug);
  options.unwinding = !plan.has(no_unwinding);
  if (plan.has(any_forward)) options.forward = {"*"};
  Change change = in.engine.change();
  Bytes first = plan.second != 0 ? bytes.first(plan.split) : bytes;
  if (Result<Object> object = Object::borrow(first, nullptr, "first.o"))
    change.add(library, std::move(*object), options);
  else
    return check(object.error()), std::nullopt;
  if (plan.second == 1) {
    if (Result<Object> object = Object::borrow(bytes.subspan(plan.split), nullptr, "second.o"))
      change.add(library, std::move(*object), options);
  } else if (plan.second == 2) {
    std::vector<Source> sources = {Source::resolver(std::make_shared<NameResolver>())};
    if (Result<Archive> archive = Archive::borrow(bytes.subspan(plan.split), nullptr, "second.a"))
      sources.insert(sources.begin(), Source::archive(std::move(*archive)));
    require(bool(library.search(std::move(sources))), "an archive is a source");
  }
  Result<Draft> drafted = std::move(change).draft();
  if (plan.second == 2) {
    std::vector<Source> sources = {Source::resolver(std::make_shared<NameResolver>())};
    if (plan.has(ask_process)) sources.insert(sources.begin(), Source::process());
    require(bool(library.search(std::move(sources))), "a resolver is a source");
  }
  if (!drafted) return check(drafted.error()), std::nullopt;
  return std::move(*drafted);
}

// A rename, a binding and a localization, of the first symbols that have names.
void edit(Draft& draft) {
  std::vector<Edit> edits;
  const Object& object = draft.object({0});
  for (std::span<const Symbol> symbols = object.symbols();
       const Symbol& symbol : symbols.subspan(std::min<std::size_t>(object.first_global(), symbols.size()))) {
    switch (edits.size()) {
    case 0: edits.push_back(Edit::rename({0}, std::string(symbol.name()), "renamed")); break;
    case 1: edits.push_back(Edit::bind({0}, std::string(symbol.name()), address_nearby())); break;
    case 2: edits.push_back(Edit::localize({0}, std::string(symbol.name()))); break;
    case 3: edits.push_back(Edit::rename({0}, std::string(symbol.name()), "absolute")); break;
    default: break;
    }
  }
  if (Result<void> edited = draft.edit(std::move(edits)); !edited) check(edited.error());
}

void link_in_engine(Bytes bytes, const Plan& plan) {
  std::optional<Draft> drafted = draft(bytes, plan);
  if (!drafted) return;
  if (plan.has(edit_symbols)) edit(*drafted);
  std::uint64_t sum = drafted->undefined().size();
  for (const ModuleLayout& layout : drafted->layouts())
    for (const SectionLayout& section : layout.sections) sum += section.size + section.name.size();
  sink = sum;
  link(std::move(*drafted).place(), {});
}

void link_elsewhere(Bytes bytes, const Plan& plan) {
  Granularity granularity = plan.has(cut_by_function) ? Granularity::function
                            : plan.has(cut_whole)     ? Granularity::whole
                                                      : Granularity::section;
  ExactMemory memory(granularity);
  std::optional<Draft> drafted = draft(bytes, plan);
  if (!drafted) return;
  if (plan.has(edit_symbols)) edit(*drafted);
  if (plan.has(client_memory)) return link(std::move(*drafted).place(memory), {});
  Result<std::vector<BlockRequest>> requests = drafted->blocks(granularity);
  if (!requests) return check(requests.error());
  check_parts(*drafted, *requests);
  std::vector<Addr> addresses =
      addresses_for(*requests, plan.has(far_apart), plan.has(low_addresses) ? 0x10000 : 0x7000'0000'0000);
  link(std::move(*drafted).place(granularity, addresses), *requests);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes(reinterpret_cast<const std::byte*>(data), size);
  const Plan plan = plan_of(bytes);
  const EngineUsage before = world().engine.usage();
  link_in_engine(bytes, plan);
  link_elsewhere(bytes, plan);
  const EngineUsage after = world().engine.usage();
  require(before.live == after.live && before.modules == after.modules && before.symbols == after.symbols &&
              before.bookkeeping == after.bookkeeping,
          "a dropped change leaves nothing");
  return 0;
}
