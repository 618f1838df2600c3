// The sections of an ELF64 relocatable file: one pass over their headers, and what is wrong with one if something is. See
// elf_reader.cpp.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/align.h"
#include "base/check.h"
#include "base/prefetch.h"
#include "object/elf_pass.h"
#include "object/elf_reader.h"
#include "object/section_kind.h"

#include <algorithm>
#include <limits>
#include <new>

namespace tenon::object {

// All that the pass looks at for each section, in an object that nobody else sees: what it needs most can stay in
// registers. It only finds out whether a section is right; section_fault() says what is wrong, and checks in this order.
class SectionPass {
public:
  explicit SectionPass(const ElfReader& r) noexcept
      : file_(r.bytes_.data()), file_size_(r.bytes_.size()), names_limit_(file_size_ * 64 + 63), first_(r.header_.shoff),
        end_(r.headers_end_), count_(r.section_count_), names_(r.section_names_), machine_(r.machine_),
        symbol_table_(r.symbol_table_), extended_indices_table_(r.extended_indices_table_),
        symbol_count_(std::max<std::uint64_t>(r.symbol_count_, 1)), contents_count_(r.contents_count_),
        sections_(r.sections_), tables_(r.relocation_tables_), contents_(r.contents_) {}

  // How many are right, from the null section on.
  std::uint32_t run() noexcept {
    SectionHeaderView header(file_ + first_);
    for (std::uint32_t index = 1; index < count_; ++index) {
      header = header.next();
      prefetch_name(index + 12);
      if (!read(index, header)) [[unlikely]]
        return index;
    }
    return std::max(count_, 1U);
  }
  void hand_over(ElfReader& r) const noexcept {
    r.content_size_ = content_size_;
    r.names_size_ = names_size_;
    r.relocations_left_ = relocations_left_;
    r.file_->contents = {contents_, contents_read_};
  }

private:
  bool read(std::uint32_t index, SectionHeaderView header) noexcept;
  std::string_view name_of(std::uint32_t index, SectionHeaderView header, std::uint32_t type) noexcept;
  bool read_content(SectionHeaderView header, std::uint32_t type, Section& section) noexcept;
  bool read_program(std::uint32_t index, SectionHeaderView header, std::uint32_t type, Section& section) noexcept;
  bool read_table(std::uint32_t index, SectionHeaderView header, std::uint32_t type, const Section& section) noexcept;
  bool take_relocations(std::uint32_t index, SectionHeaderView header, Bytes content) noexcept;
  SectionHeaderView header_at(std::uint32_t index) const noexcept {
    return SectionHeaderView(file_ + first_ + std::uint64_t(index) * sizeof(elf::SectionHeader));
  }
  // Names lie anywhere in their table: each is a cache miss unless it is asked for ahead.
  void prefetch_name(std::uint32_t index) const noexcept {
    if (index >= count_) return;
    const auto offset = header_at(index).name();
    if (offset < names_.size) base::prefetch(names_.begin + offset);
  }

  const std::byte* const file_;
  const std::uint64_t file_size_;
  const std::uint64_t names_limit_; // see count_name()
  const std::uint64_t first_, end_; // of the headers
  const std::uint32_t count_;
  const StringTable names_;
  const Machine machine_;
  const std::uint32_t symbol_table_, extended_indices_table_;
  const std::uint64_t symbol_count_;
  const std::uint32_t contents_count_;
  Section* const sections_;
  RelocationTable* const tables_;
  std::uint32_t* const contents_;
  std::uint32_t contents_read_ = 0;
  bool relocations_left_ = false;
  std::uint64_t content_size_ = 0; // of all sections so far
  std::uint64_t names_size_ = 0;
  std::string_view group_name_; // of the last group
};

Result<void> ElfReader::read_sections() {
  SectionPass pass(*this);
  const std::uint32_t right = pass.run();
  pass.hand_over(*this);
  sections_read_ = right;
  if (right >= section_count_) return {};
  sections_read_ = right + 1; // it may have its name
  return section_fault(right);
}

// The name at an offset inside of the table. Most need not be read to their ends: all groups are called ".group", and the
// relocations of section X are in ".relaX", whose end string tables share with X.
[[gnu::always_inline]] inline std::string_view SectionPass::name_of(std::uint32_t index, SectionHeaderView header,
                                                                    std::uint32_t type) noexcept {
  const char* begin = names_.begin + header.name();
  if (type == elf::sht_rela) {
    const std::uint32_t target = header.info();
    if (target < index) {
      const std::string_view name = sections_[target].name;
      if (name.data() == begin + 5 && load_le<std::uint32_t>(reinterpret_cast<const std::byte*>(begin)) == 0x6C65722E &&
          begin[4] == 'a') // ".rela"
        return {begin, name.size() + 5};
    }
  } else if (type == elf::sht_group) {
    if (begin != group_name_.data()) group_name_ = begin;
    return group_name_;
  }
  return begin;
}

// False if something is wrong, the name set if it is not that.
[[gnu::always_inline]] inline bool SectionPass::read(std::uint32_t index, SectionHeaderView header) noexcept {
  const std::uint32_t type = header.type();
  Section& section = *new (sections_ + index) Section;
  if (header.name() >= names_.size) return false;
  section.name = name_of(index, header, type);
  names_size_ += section.name.size();
  if (names_size_ > names_limit_) return false;
  if (type == elf::sht_null) return true;
  if (!read_content(header, type, section)) return false;
  const std::uint64_t alignment = header.addralign();
  if ((alignment & (alignment - 1)) != 0 || alignment > max_alignment) return false;
  section.alignment = static_cast<std::uint32_t>(alignment + (alignment == 0 ? 1 : 0));
  constexpr std::uint64_t special = flags_of_content | elf::shf_link_order | elf::shf_compressed;
  if (!is_format_table(type) || (header.flags() & special) != 0)
    if (!read_program(index, header, type, section)) return false;
  return read_table(index, header, type, section);
}

[[gnu::always_inline]] inline bool SectionPass::read_content(SectionHeaderView header, std::uint32_t type,
                                                             Section& section) noexcept {
  const std::uint64_t size = header.size();
  section.size = size;
  if (type == elf::sht_nobits) return size <= max_memory_size;
  if (size == 0) return true;
  const std::uint64_t offset = header.offset();
  if (!base::range_fits(offset, size, file_size_) || offset < sizeof(elf::Header) ||
      (offset < end_ && first_ < offset + size))
    return false;
  content_size_ += size; // at most the sum of count_ sizes, each below the file's: no overflow
  section.content = {file_ + offset, size};
  return content_size_ <= file_size_;
}

namespace {

// Of a compressed section, how big it will be; the rest of the compression header is for who asks for the bytes
// (compressed.cpp).
bool read_unusual_flags(SectionHeaderView header, std::uint32_t section_count, Section& section) noexcept {
  const std::uint64_t flags = header.flags();
  if ((flags & elf::shf_link_order) != 0) {
    if (header.link() >= section_count) return false;
    section.link_order = header.link();
  }
  if ((flags & elf::shf_compressed) != 0) {
    if ((flags & elf::shf_alloc) != 0 || header.type() == elf::sht_nobits ||
        section.content.size() < sizeof(elf::CompressionHeader))
      return false;
    const auto compression = load_le<elf::CompressionHeader>(section.content.data());
    if ((compression.addralign & (compression.addralign - 1)) != 0 || compression.addralign > max_alignment) return false;
    section.compressed = true;
    section.size = compression.size;
    section.alignment = std::max(static_cast<std::uint32_t>(compression.addralign), 1U);
  } else if (section.kind == SectionKind::debug && section.name.starts_with(".zdebug") && section.content.size() >= 12 &&
             std::memcmp(section.content.data(), "ZLIB", 4) == 0) {
    section.compressed = true;
    section.size = base::load_be<std::uint64_t>(section.content.data() + 4);
  }
  return true;
}

} // namespace

[[gnu::always_inline]] inline bool SectionPass::read_program(std::uint32_t index, SectionHeaderView header,
                                                             std::uint32_t type, Section& section) noexcept {
  const std::uint64_t flags = header.flags();
  classify(type, flags, machine_, section);
  if ((flags & elf::shf_merge) != 0 && section.allocated) {
    const std::uint64_t entry = header.entsize();
    section.mergeable = can_merge(type, flags, section.size, entry);
    if (section.mergeable && entry > std::numeric_limits<std::uint32_t>::max()) return false;
    if (section.mergeable) section.entry_size = static_cast<std::uint32_t>(entry);
  }
  const bool debug = section.kind == SectionKind::debug;
  if ((debug || (flags & (elf::shf_link_order | elf::shf_compressed)) != 0) && !read_unusual_flags(header, count_, section))
    return false;
  if (!debug && !section.allocated) return true;
  TENON_CHECK(contents_read_ < contents_count_, "more sections of the program than there were: the bytes have changed");
  contents_[contents_read_++] = index;
  return true;
}

// What there can be but one of, and relocations.
[[gnu::always_inline]] inline bool SectionPass::read_table(std::uint32_t index, SectionHeaderView header, std::uint32_t type,
                                                           const Section& section) noexcept {
  if (type == elf::sht_progbits) return true;
  if (holds_relocations(type)) {
    if (!take_relocations(index, header, section.content)) relocations_left_ = true;
    return true;
  }
  if (type == elf::sht_symtab) return index == symbol_table_;
  return type != elf::sht_symtab_shndx || index == extended_indices_table_;
}

// Those of a section before it, as all compilers write them. False, and nothing is done: whatever is special, or wrong, is
// for read_relocation_section() when all sections are known.
[[gnu::always_inline]] inline bool SectionPass::take_relocations(std::uint32_t index, SectionHeaderView header,
                                                                 Bytes content) noexcept {
  const std::uint32_t to = header.info();
  const std::uint64_t count = content.size() / elf::rela_size;
  if (header.type() != elf::sht_rela || to >= index || header.link() != symbol_table_ ||
      header.entsize() != elf::rela_size || count == 0 || count * elf::rela_size != content.size() ||
      count > std::numeric_limits<std::uint32_t>::max())
    return false;
  const SectionKind kind = sections_[to].kind; // the null section is another
  RelocationTable& table = tables_[to];
  if (kind == SectionKind::other || kind == SectionKind::zero || kind == SectionKind::tls_zero || table.section != 0)
    return false;
  // The bytes are an array of implicit-lifetime Relocations, of alignment 1.
  const auto* begin = reinterpret_cast<const Relocation*>(content.data());
  if (sections_[to].allocated && !relocations_in_range({begin, count}, symbol_count_)) return false;
  table = {begin, static_cast<std::uint32_t>(count), index};
  return true;
}

// What read_section() has found wrong.
Error ElfReader::section_fault(std::uint32_t index) const {
  const auto header = section_header(index);
  const auto label = section_label(index);
  if (header.name >= section_names_.size)
    return malformed(label + " has its name at offset " + number(header.name) + " of a table of " +
                     number(section_names_.size) + " bytes");
  if (names_size_ / 64 > bytes_.size()) return too_many_names(index);
  if (header.type != elf::sht_nobits && header.size != 0) {
    if (!base::range_fits(header.offset, header.size, bytes_.size()))
      return malformed(label + " lies outside the file: offset " + number(header.offset) + ", size " + number(header.size) +
                       ", file size " + number(bytes_.size()));
    if (header.offset < sizeof(elf::Header)) return malformed(label + " overlaps the ELF header");
    if (header.offset < headers_end_ && header_.shoff < header.offset + header.size)
      return malformed(label + " overlaps the section header table");
    if (content_size_ > bytes_.size())
      return malformed(label + " overlaps another section: the sections up to it have " + number(content_size_) +
                       " bytes, the file " + number(bytes_.size()));
  }
  if (header.type == elf::sht_nobits && header.size > max_memory_size)
    return malformed(label + " has the impossible size " + hex(header.size));
  if ((header.addralign & (header.addralign - 1)) != 0)
    return malformed(label + " has alignment " + hex(header.addralign) + ", which is not a power of two");
  if (header.addralign > max_alignment) return malformed(label + " has the impossible alignment " + hex(header.addralign));
  if (sections_[index].mergeable && header.entsize > std::numeric_limits<std::uint32_t>::max())
    return malformed(label + " has the impossible entry size " + hex(header.entsize));
  if ((header.flags & elf::shf_link_order) != 0 && header.link >= section_count_)
    return malformed(label + " is ordered by section [" + number(header.link) + "], which does not exist");
  return compression_fault(index);
}

Error ElfReader::compression_fault(std::uint32_t index) const {
  const auto header = section_header(index);
  const auto label = section_label(index);
  const Bytes content = sections_[index].content;
  if ((header.flags & elf::shf_compressed) != 0) {
    if ((header.flags & elf::shf_alloc) != 0 || header.type == elf::sht_nobits)
      return malformed(label + " is compressed, which a section of the program can't be");
    if (content.size() < sizeof(elf::CompressionHeader))
      return malformed(label + " is too short for the header of a compressed section");
    const auto compression = load_le<elf::CompressionHeader>(content.data());
    if (!base::is_power_of_two(std::max<std::uint64_t>(compression.addralign, 1)))
      return malformed(label + " has alignment " + hex(compression.addralign) + ", which is not a power of two");
    if (compression.addralign > max_alignment)
      return malformed(label + " has the impossible alignment " + hex(compression.addralign));
  }
  const std::uint32_t first = header.type == elf::sht_symtab ? symbol_table_ : extended_indices_table_;
  return malformed(label + " is a second table of its kind beside section [" + number(first) + "]");
}

Error ElfReader::too_many_names(std::uint32_t section) const {
  return malformed("section [" + number(section) + "] brings the names of sections and groups to the impossible total of " +
                   number(names_size_) + " bytes");
}

std::string hex(std::uint64_t value) {
  std::string text;
  do {
    text.insert(text.begin(), "0123456789abcdef"[value & 15]);
    value >>= 4;
  } while (value != 0);
  return "0x" + text;
}

} // namespace tenon::object
