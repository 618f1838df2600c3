// Reading `ar` archives (archive_format.h). Opening one reads all member headers and the symbol index, so that every fault
// of the archive itself shows there; members are read as objects when they are asked for.
//
// Locking: all that opening made is immutable. What comes later (bytes of thin members, the index of an archive that has
// none) is made with no lock held, because the client's loader runs meanwhile, then stored under the lock unless another
// thread was first. Nothing stored is ever replaced, so views of it last.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/bytes.h"
#include "base/check.h"
#include "base/guarded.h"
#include "base/printable.h"
#include "base/set_once.h"
#include "object/archive_format.h"
#include "object/mapped_file.h"
#include "object/symbol_index.h"

#include <tenon/object.h>

#include <algorithm>
#include <atomic>

namespace tenon {

namespace ar = object::ar;

struct Archive::File {
  struct Member {
    std::string_view name;
    std::uint64_t header_offset = 0;
    Bytes bytes; // empty in a thin archive
  };

  std::string name;
  Bytes bytes;
  std::shared_ptr<const void> owner;
  Loader loader;
  bool thin = false;
  bool has_index = false;
  std::vector<Member> members; // by rising header_offset
  object::SymbolIndex index;   // if has_index

  std::vector<base::SetOnce<std::vector<std::byte>>> loaded; // of a thin archive, by member
  base::SetOnce<object::SymbolIndex> made_index;             // if not has_index
};

namespace {

std::string number(std::uint64_t value) { return std::to_string(value); }

std::string_view trimmed(const char* field, std::size_t size) {
  while (size != 0 && field[size - 1] == ' ') --size;
  return {field, size};
}

std::optional<std::uint64_t> parse_decimal(std::string_view digits) {
  if (digits.empty() || digits.size() > 18) return std::nullopt;
  std::uint64_t value = 0;
  for (char c : digits) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  return value;
}

std::string_view text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

// A member's header, read and checked.
struct Record {
  std::string_view name; // the field, without the blanks
  std::uint64_t offset;
  Bytes bytes;
};

} // namespace

// The pass over the member headers.
class ArchiveReader {
public:
  explicit ArchiveReader(Archive::File& file) : file_(file) {}
  Result<void> read();

private:
  Result<Record> read_record(std::uint64_t offset);
  Result<void> read_member(Record record);
  Result<void> read_gnu_index(const Record& record, unsigned width);
  Result<void> read_bsd_index(const Record& record, unsigned width);
  Result<void> resolve_index(std::string_view name, std::uint64_t offset);
  Result<std::string_view> long_name(const Record& record);
  // Whether a member of a thin archive has its bytes here.
  static bool is_table(std::string_view name) { return name == "/" || name == "//" || name == "/SYM64/"; }

  Error malformed(const std::string& what) const { return {ErrorCode::malformed, file_.name + ": " + what}; }
  Error malformed_at(std::uint64_t offset, const std::string& what) const {
    return malformed("the archive member at offset " + number(offset) + " " + what);
  }

  Archive::File& file_;
  std::string_view long_names_;
  bool has_long_names_ = false;
  std::optional<Record> index_; // read last: it refers to members
  unsigned index_width_ = 0;    // bytes per number
  bool index_is_bsd_ = false;
};

Result<void> ArchiveReader::read() {
  const std::string_view all = text_of(file_.bytes);
  file_.thin = all.starts_with(ar::thin_magic);
  if (!file_.thin && !all.starts_with(ar::magic))
    return malformed(all.empty() ? "is empty, not an archive" : "is not an archive: it does not begin with \"!<arch>\"");
  for (std::uint64_t offset = ar::magic.size(); offset < file_.bytes.size();) {
    auto record = read_record(offset);
    if (!record) return std::move(record).error();
    const bool inside = !file_.thin || is_table(record->name);
    offset += sizeof(ar::Header) + (inside ? record->bytes.size() : 0);
    offset += offset & 1; // the last member's padding may be missing
    if (auto done = read_member(std::move(*record)); !done) return done;
  }
  if (file_.thin) file_.loaded = std::vector<base::SetOnce<std::vector<std::byte>>>(file_.members.size());
  if (!index_) return {};
  file_.has_index = true;
  if (auto done = index_is_bsd_ ? read_bsd_index(*index_, index_width_) : read_gnu_index(*index_, index_width_); !done)
    return done;
  file_.index.build();
  return {};
}

Result<Record> ArchiveReader::read_record(std::uint64_t offset) {
  if (!base::range_fits(offset, sizeof(ar::Header), file_.bytes.size()))
    return malformed_at(offset, "is truncated: a header is 60 bytes long, the file ends after " +
                                    number(file_.bytes.size() - offset));
  const auto* header = reinterpret_cast<const ar::Header*>(file_.bytes.data() + offset); // all char: alignment 1
  if (header->end[0] != '`' || header->end[1] != '\n')
    return malformed_at(offset, "has no valid header: it does not end in \"`\\n\"");
  const std::string_view name = trimmed(header->name, sizeof header->name);
  const auto size = parse_decimal(trimmed(header->size, sizeof header->size));
  if (!size)
    return malformed_at(offset,
                        "has the size \"" + base::printable({header->size, sizeof header->size}) + "\", not a number");
  Record record{name, offset, {}};
  if (file_.thin && !is_table(name)) return record;
  const std::uint64_t begin = offset + sizeof(ar::Header);
  if (!base::range_fits(begin, *size, file_.bytes.size()))
    return malformed_at(offset, "is truncated: it has " + number(*size) + " bytes, the file ends after " +
                                    number(file_.bytes.size() - begin));
  record.bytes = file_.bytes.subspan(begin, *size);
  return record;
}

Result<void> ArchiveReader::read_member(Record record) {
  // BSD: the name is the front of the member.
  if (record.name.starts_with("#1/")) {
    if (file_.thin) return malformed_at(record.offset, "has a BSD name in a thin archive");
    const auto length = parse_decimal(record.name.substr(3));
    if (!length || *length > record.bytes.size())
      return malformed_at(record.offset, "has its name (\"" + base::printable(record.name) + "\") outside its " +
                                             number(record.bytes.size()) + " bytes");
    std::string_view name = text_of(record.bytes.first(*length));
    name = name.substr(0, name.find('\0'));
    record.name = name;
    record.bytes = record.bytes.subspan(*length);
  } else if (record.name == "//") {
    if (has_long_names_) return malformed_at(record.offset, "is a second table of long names");
    has_long_names_ = true;
    long_names_ = text_of(record.bytes);
    return {};
  } else if (record.name == "/" || record.name == "/SYM64/") {
    if (index_) return malformed_at(record.offset, "is a second symbol index");
    index_width_ = record.name == "/" ? 4 : 8;
    index_ = record;
    return {};
  } else if (record.name.starts_with('/')) {
    auto name = long_name(record);
    if (!name) return std::move(name).error();
    record.name = *name;
  } else if (record.name.ends_with('/')) {
    record.name.remove_suffix(1);
  }
  const bool symdef = record.name == "__.SYMDEF" || record.name == "__.SYMDEF SORTED";
  const bool symdef_64 = record.name == "__.SYMDEF_64" || record.name == "__.SYMDEF_64 SORTED";
  if ((symdef || symdef_64) && file_.members.empty() && !index_) {
    index_width_ = symdef_64 ? 8 : 4;
    index_is_bsd_ = true;
    index_ = record;
    return {};
  }
  file_.members.push_back({record.name, record.offset, record.bytes}); // each has 60 bytes of the file
  return {};
}

Result<std::string_view> ArchiveReader::long_name(const Record& record) {
  const std::string_view digits = record.name.substr(1);
  const std::string quoted = "\"" + base::printable(record.name) + "\"";
  if (file_.thin && digits.find(':') != std::string_view::npos)
    return Error{ErrorCode::unsupported, file_.name + ": the archive member at offset " + number(record.offset) +
                                             " is called " + quoted +
                                             ": members of another archive in a thin one are not supported"};
  const auto offset = parse_decimal(digits);
  if (!offset) return malformed_at(record.offset, "has the name " + quoted + ", which means nothing");
  if (*offset >= long_names_.size())
    return malformed_at(record.offset, "has its name (" + quoted + ") outside the table of long names, which has " +
                                           number(long_names_.size()) + " bytes");
  std::string_view name = long_names_.substr(*offset);
  const std::size_t end = name.find('\n');
  if (end == std::string_view::npos)
    return malformed_at(record.offset, "has a name that is unterminated in the table of long names");
  name = name.substr(0, end);
  if (name.ends_with('/')) name.remove_suffix(1);
  return name;
}

// `offset` is that of a member's header.
Result<void> ArchiveReader::resolve_index(std::string_view name, std::uint64_t offset) {
  const auto member =
      std::lower_bound(file_.members.begin(), file_.members.end(), offset,
                       [](const Archive::File::Member& m, std::uint64_t at) { return m.header_offset < at; });
  if (member == file_.members.end() || member->header_offset != offset)
    return malformed("the archive's symbol index has " + base::printable(name) + " in a member at offset " + number(offset) +
                     ", where none begins");
  file_.index.add(name, static_cast<std::uint32_t>(member - file_.members.begin()));
  return {};
}

Result<void> ArchiveReader::read_gnu_index(const Record& record, unsigned width) {
  const Bytes bytes = record.bytes;
  const auto load = [&](std::uint64_t at) -> std::uint64_t {
    return width == 4 ? base::load_be<std::uint32_t>(bytes.data() + at) : base::load_be<std::uint64_t>(bytes.data() + at);
  };
  if (bytes.size() < width)
    return malformed_at(record.offset, "is a symbol index of " + number(bytes.size()) + " bytes, too short for its count");
  const std::uint64_t count = load(0);
  if (count > (bytes.size() - width) / (width + 1U)) // a number and at least a NUL each
    return malformed_at(record.offset,
                        "is a symbol index of " + number(count) + " symbols in " + number(bytes.size()) + " bytes");
  std::string_view names = text_of(bytes.subspan((count + 1) * width));
  file_.index.reserve(count);
  for (std::uint64_t symbol = 0; symbol < count; ++symbol) {
    const std::size_t end = names.find('\0');
    if (end == std::string_view::npos)
      return malformed_at(record.offset, "is a symbol index with " + number(count) + " symbols, but only " + number(symbol) +
                                             " terminated names");
    if (auto done = resolve_index(names.substr(0, end), load((symbol + 1) * width)); !done) return done;
    names.remove_prefix(end + 1);
  }
  return {};
}

// The size of the pairs (offset of the name, offset of the member's header), the pairs, the size of the names, the names.
Result<void> ArchiveReader::read_bsd_index(const Record& record, unsigned width) {
  const Bytes bytes = record.bytes;
  const auto load = [&](std::uint64_t at) -> std::uint64_t {
    return width == 4 ? base::load_le<std::uint32_t>(bytes.data() + at) : base::load_le<std::uint64_t>(bytes.data() + at);
  };
  const auto broken = [&] { return malformed_at(record.offset, "is a symbol index whose tables reach past its end"); };
  if (bytes.size() < 2 * width) return broken();
  const std::uint64_t pairs_size = load(0);
  if (pairs_size % (2 * width) != 0 || pairs_size > bytes.size() - 2 * width) return broken();
  const std::uint64_t names_size = load(width + pairs_size);
  if (names_size > bytes.size() - 2 * width - pairs_size) return broken();
  const std::string_view names = text_of(bytes.subspan(2 * width + pairs_size, names_size));
  const std::uint64_t count = pairs_size / (2 * width);
  std::uint64_t total = 0; // as for section names: no quadratic time
  file_.index.reserve(count);
  for (std::uint64_t symbol = 0; symbol < count; ++symbol) {
    const std::uint64_t name = load(width + symbol * 2 * width);
    const std::size_t end = name < names.size() ? names.find('\0', name) : std::string_view::npos;
    if (end == std::string_view::npos || (total += end - name) / 64 > file_.bytes.size())
      return malformed_at(record.offset, "is a symbol index with a name outside its table");
    if (auto done = resolve_index(names.substr(name, end - name), load(2 * width + symbol * 2 * width)); !done) return done;
  }
  return {};
}

// --- The public class ---

bool Archive::is_archive(Bytes bytes) noexcept {
  const std::string_view text = text_of(bytes);
  return text.starts_with(ar::magic) || text.starts_with(ar::thin_magic);
}

Result<Archive> Archive::borrow(Bytes bytes, std::shared_ptr<const void> owner, std::string name, Loader loader) {
  return base::guarded([&]() -> Result<Archive> {
    auto file = std::make_shared<File>();
    file->name = std::move(name);
    file->bytes = bytes;
    file->owner = std::move(owner);
    file->loader = std::move(loader);
    if (auto read = ArchiveReader(*file).read(); !read) return std::move(read).error();
    return Archive(std::move(file));
  });
}

Result<Archive> Archive::copy(Bytes bytes, std::string name, Loader loader) {
  return base::guarded([&]() -> Result<Archive> {
    auto owned = std::make_shared<const std::vector<std::byte>>(bytes.begin(), bytes.end());
    const Bytes view(*owned);
    return borrow(view, std::move(owned), std::move(name), std::move(loader));
  });
}

Result<Archive> Archive::read_file(const std::string& path) {
  return base::guarded([&]() -> Result<Archive> {
    auto mapped = object::map_file(path);
    if (!mapped) return std::move(mapped).error();
    const std::string folder = path.substr(0, path.rfind('/') + 1);
    Loader loader = [folder](std::string_view member) -> Result<std::vector<std::byte>> {
      auto file = object::map_file(member.starts_with('/') ? std::string(member) : folder + std::string(member));
      if (!file) return std::move(file).error();
      return std::vector<std::byte>(file->bytes.begin(), file->bytes.end());
    };
    return borrow(mapped->bytes, std::move(mapped->owner), path, std::move(loader));
  });
}

const std::string& Archive::name() const noexcept { return file_->name; }
std::size_t Archive::size() const noexcept { return file_->members.size(); }

std::string_view Archive::member_name(std::size_t index) const noexcept {
  TENON_CHECK(index < file_->members.size(), "a member that the archive does not have");
  return file_->members[index].name;
}

Result<Bytes> Archive::member_bytes(std::size_t index) const {
  TENON_CHECK(index < file_->members.size(), "a member that the archive does not have");
  if (!file_->thin) return file_->members[index].bytes;
  return base::guarded([&]() -> Result<Bytes> {
    if (const auto* loaded = file_->loaded[index].get()) return Bytes(*loaded);
    const std::string_view member = file_->members[index].name;
    const auto context = [&] { return file_->name + "(" + base::printable(member) + ")"; };
    if (!file_->loader)
      return Error{ErrorCode::unsupported, context() + ": is a member of a thin archive, which needs a loader"};
    auto loaded = file_->loader(member);
    if (!loaded) return std::move(loaded).error().within(context());
    return Bytes(file_->loaded[index].set(std::make_unique<const std::vector<std::byte>>(*std::move(loaded))));
  });
}

Result<Object> Archive::member(std::size_t index) const {
  return base::guarded([&]() -> Result<Object> {
    auto bytes = member_bytes(index);
    if (!bytes) return std::move(bytes).error();
    // The archive keeps the bytes, its own or those that were loaded.
    return Object::borrow(*bytes, file_, file_->name + "(" + std::string(member_name(index)) + ")");
  });
}

Result<std::optional<std::size_t>> Archive::find(std::string_view symbol) const {
  if (file_->has_index) return file_->index.find(symbol);
  if (const auto* made = file_->made_index.get()) return made->find(symbol);
  return base::guarded([&] { return find_in_made_index(symbol); });
}

Result<std::optional<std::size_t>> Archive::find_in_made_index(std::string_view symbol) const {
  auto index = std::make_unique<object::SymbolIndex>();
  // Names that begin in the middle of others share their ends; where that goes on and on it would make the time quadratic.
  for (std::size_t member = 0; member < size(); ++member) {
    auto object = this->member(member);
    // The index is kept for good: it must not lack what would be there another time.
    if (!object && object.error().code == ErrorCode::out_of_memory) return std::move(object).error();
    if (!object) continue;
    std::uint64_t names_left = object->bytes().size() * 64;
    // Names live as long as the archive does: in its bytes, or in those it loaded and keeps.
    for (const Symbol& defined :
         object->symbols().subspan(std::min<std::size_t>(object->first_global(), object->symbols().size())))
      if (defined.defined() && !defined.is_local()) {
        const std::string_view name = defined.name();
        if (name.size() > names_left) break;
        names_left -= name.size();
        index->add(name, static_cast<std::uint32_t>(member));
      }
  }
  index->build();
  return file_->made_index.set(std::move(index)).find(symbol);
}

} // namespace tenon
