// Reads an archive's members and strips their debug sections, by LLVM's own libraries: neither is under test here.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "inputs.h"

#include <llvm/ADT/SmallVector.h>
#include <llvm/ObjCopy/ConfigManager.h>
#include <llvm/ObjCopy/ObjCopy.h>
#include <llvm/Object/Archive.h>
#include <llvm/Object/ELFObjectFile.h>
#include <llvm/Support/MemoryBuffer.h>
#include <llvm/Support/raw_ostream.h>

#include <cstring>

namespace versus {
namespace {

Error fault(const std::string& path, llvm::Error error) {
  return Error{ErrorCode::malformed, path + ": " + llvm::toString(std::move(error))};
}

std::vector<std::byte> to_bytes(llvm::StringRef text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

bool has_debug_sections(const llvm::object::ObjectFile& object) {
  for (const llvm::object::SectionRef& section : object.sections()) {
    llvm::Expected<llvm::StringRef> name = section.getName();
    if (!name) {
      llvm::consumeError(name.takeError());
      continue;
    }
    if (name->starts_with(".debug") || name->starts_with(".zdebug")) return true;
  }
  return false;
}

llvm::Expected<std::vector<std::byte>> stripped(llvm::MemoryBufferRef buffer) {
  // Members lie at even addresses only; the ELF readers want 8.
  auto aligned = llvm::MemoryBuffer::getMemBufferCopy(buffer.getBuffer(), buffer.getBufferIdentifier());
  auto object = llvm::object::ObjectFile::createELFObjectFile(aligned->getMemBufferRef());
  if (!object) return object.takeError();
  if (!has_debug_sections(**object)) return to_bytes(aligned->getBuffer());
  llvm::objcopy::ConfigManager config;
  config.Common.StripDebug = true;
  config.Common.OutputFilename = "-";
  llvm::SmallVector<char, 0> out;
  llvm::raw_svector_ostream stream(out);
  if (llvm::Error error = llvm::objcopy::executeObjcopyOnBinary(config, **object, stream)) return error;
  return to_bytes({out.data(), out.size()});
}

} // namespace

Result<std::vector<InputObject>> archive_members(const std::string& path) {
  auto file = llvm::MemoryBuffer::getFile(path, false, false);
  if (!file) return Error{ErrorCode::system, path + ": " + file.getError().message()};
  auto archive = llvm::object::Archive::create((*file)->getMemBufferRef());
  if (!archive) return fault(path, archive.takeError());
  std::string short_name = path.substr(path.rfind('/') + 1);
  std::vector<InputObject> members;
  llvm::Error error = llvm::Error::success();
  for (const llvm::object::Archive::Child& child : (*archive)->children(error)) {
    auto buffer = child.getMemoryBufferRef();
    if (!buffer) return fault(path, buffer.takeError());
    auto bytes = stripped(*buffer);
    std::string name = short_name + "(" + buffer->getBufferIdentifier().str() + ")";
    if (!bytes) return fault(name, bytes.takeError());
    members.push_back({std::move(name), std::move(*bytes)});
  }
  if (error) return fault(path, std::move(error));
  return members;
}

} // namespace versus
