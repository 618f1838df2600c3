// mmap for regular files, read for the rest. Every system call's failure names the path and the reason.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "object/mapped_file.h"

#include "base/fault.h"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>

namespace tenon::object {

namespace {

using base::fault::Call;
using base::fault::injected;

Error system_error(const std::string& path, const char* what, int number) {
  return {ErrorCode::system, path + ": cannot " + what + ": " + std::generic_category().message(number)};
}

class Descriptor {
public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const noexcept { return value_; }

private:
  int value_;
};

struct Mapping {
  void* address = MAP_FAILED;
  std::size_t size = 0;

  Mapping() = default;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (address != MAP_FAILED) ::munmap(address, size);
  }
};

Result<MappedFile> read_to_end(int descriptor, const std::string& path) {
  auto content = std::make_shared<std::vector<std::byte>>();
  std::size_t used = 0;
  for (;;) {
    if (content->size() == used) content->resize(used < 65536 ? 65536 : used * 2);
    const ssize_t got = ::read(descriptor, content->data() + used, content->size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return system_error(path, "read", errno);
    if (got == 0) break;
    used += static_cast<std::size_t>(got);
  }
  content->resize(used);
  const Bytes bytes(*content);
  return MappedFile{bytes, std::move(content)};
}

} // namespace

Result<MappedFile> map_file(const std::string& path) {
  const Descriptor descriptor(injected(Call::open) ? -1 : ::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (descriptor.get() < 0) return system_error(path, "open", errno);
  struct stat status;
  if (injected(Call::fstat) || ::fstat(descriptor.get(), &status) != 0) return system_error(path, "stat", errno);
  if (S_ISDIR(status.st_mode)) return system_error(path, "read", EISDIR);
  if (!S_ISREG(status.st_mode) || status.st_size == 0) // files of /proc say 0
    return read_to_end(descriptor.get(), path);
  auto mapping = std::make_shared<Mapping>();
  const auto size = static_cast<std::size_t>(status.st_size);
  if (!injected(Call::mmap)) mapping->address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor.get(), 0);
  if (mapping->address == MAP_FAILED) return system_error(path, "map", errno);
  mapping->size = size;
  const Bytes bytes(static_cast<const std::byte*>(mapping->address), size);
  return MappedFile{bytes, std::move(mapping)};
}

} // namespace tenon::object
