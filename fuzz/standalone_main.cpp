// Runs a fuzz target without libFuzzer, with any compiler: once over each file given, or found in folders given, then over
// mutations of them. The smoke runs of `make test` use it; a failing run is repeated with the seed it printed.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::vector<std::uint8_t>;
using Random = std::mt19937_64;

std::uint64_t below(Random& random, std::uint64_t bound) { return random() % bound; }

// A block of exactly the input's size, so that a sanitizer sees reads past its end.
void run(const Input& input) {
  const auto block = std::make_unique<std::uint8_t[]>(input.size());
  std::copy(input.begin(), input.end(), block.get());
  LLVMFuzzerTestOneInput(block.get(), input.size());
}

// A number that formats are likely to get wrong, written over 1 to 8 bytes.
void write_number(Random& random, Input& input) {
  static constexpr std::uint64_t interesting[] = {0,
                                                  1,
                                                  2,
                                                  3,
                                                  4,
                                                  7,
                                                  8,
                                                  16,
                                                  24,
                                                  63,
                                                  64,
                                                  0x7F,
                                                  0x80,
                                                  0xFF,
                                                  0xFF00,
                                                  0xFF02,
                                                  0xFFF1,
                                                  0xFFF2,
                                                  0xFFFF,
                                                  0x10000,
                                                  0x7FFFFFFF,
                                                  0x80000000,
                                                  0xFFFFFFF1,
                                                  0xFFFFFFFF,
                                                  0x100000000,
                                                  0x7FFFFFFFFFFFFFFF,
                                                  0x8000000000000000,
                                                  0xFFFFFFFFFFFFFFFF};
  const std::size_t width = std::size_t(1) << below(random, 4);
  if (input.size() < width) return;
  std::uint64_t value = interesting[below(random, std::size(interesting))];
  if (below(random, 4) == 0) value = input.size() - below(random, 16);
  std::size_t at = below(random, input.size() - width + 1);
  if (below(random, 2) == 0) at -= at % width;
  std::memcpy(input.data() + at, &value, width);
}

void mutate(Random& random, Input& input, const std::vector<Input>& corpus) {
  for (std::uint64_t steps = 1 + below(random, 6); steps != 0; --steps) {
    if (input.empty()) input.push_back(0);
    const std::size_t at = below(random, input.size());
    switch (below(random, 8)) {
    case 0: input[at] ^= static_cast<std::uint8_t>(1U << below(random, 8)); break;
    case 1: input[at] = static_cast<std::uint8_t>(random()); break;
    case 2:
    case 3:
    case 4: write_number(random, input); break;
    case 5: // copy a stretch elsewhere
    {
      const std::size_t from = below(random, input.size());
      const std::size_t size = std::min<std::size_t>({1 + below(random, 64), input.size() - at, input.size() - from});
      std::memmove(input.data() + at, input.data() + from, size);
      break;
    }
    case 6: // a stretch of another input
    {
      const Input& other = corpus[below(random, corpus.size())];
      const std::size_t size = std::min<std::size_t>({1 + below(random, 128), input.size() - at, other.size()});
      if (size != 0) std::memcpy(input.data() + at, other.data() + below(random, other.size() - size + 1), size);
      break;
    }
    default:
      if (below(random, 8) == 0) input.resize(at);
    }
  }
}

[[noreturn]] void usage(const char* program) {
  std::fprintf(stderr, "usage: %s [--runs N] [--seed S] FILE_OR_FOLDER...\n", program);
  std::exit(2);
}

} // namespace

int main(int argc, char** argv) {
  std::uint64_t runs = 0, seed = std::random_device()();
  std::vector<std::string> paths;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if ((argument == "--runs" || argument == "--seed") && i + 1 < argc) {
      char* end = nullptr;
      (argument == "--runs" ? runs : seed) = std::strtoull(argv[++i], &end, 10);
      if (*argv[i] == '\0' || *end != '\0') usage(argv[0]);
    } else if (argument.starts_with("-")) {
      usage(argv[0]);
    } else if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(argument))
        if (entry.is_regular_file()) paths.push_back(entry.path().string());
    } else {
      paths.push_back(argument);
    }
  }
  if (paths.empty()) usage(argv[0]);
  std::sort(paths.begin(), paths.end()); // the same order everywhere, so that a seed means the same
  std::vector<Input> corpus;
  for (const std::string& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) {
      std::fprintf(stderr, "%s: cannot open: %s\n", path.c_str(), std::strerror(errno));
      return 2;
    }
    corpus.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  std::printf("seed %llu, %zu inputs, %llu mutations\n", static_cast<unsigned long long>(seed), corpus.size(),
              static_cast<unsigned long long>(runs));
  std::fflush(stdout); // a crash must not swallow the seed
  for (const Input& input : corpus) run(input);
  Random random(seed);
  for (std::uint64_t i = 0; i < runs; ++i) {
    Input input = corpus[below(random, corpus.size())];
    mutate(random, input, corpus);
    run(input);
  }
  std::printf("done\n");
  return 0;
}
