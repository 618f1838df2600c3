// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "threads_support.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <random>

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace tenon::reclaim::test {
namespace {

constexpr unsigned char through_code[] = {
    0x48, 0x83, 0xec, 0x08, // sub $8, %rsp
    0x48, 0x89, 0xf8,       // mov %rdi, %rax
    0x48, 0x89, 0xf7,       // mov %rsi, %rdi
    0xff, 0xd0,             // call *%rax
    0x48, 0x83, 0xc4, 0x08, // add $8, %rsp
    0xc3,                   // ret
};
constexpr std::size_t spin_offset = 32;
constexpr unsigned char spin_code[] = {
    0x8b, 0x07, // mov (%rdi), %eax
    0x85, 0xc0, // test %eax, %eax
    0x74, 0xfa, // je back to the load
    0xc3,       // ret
};

void call_function(void* argument) { (*static_cast<const std::function<void()>*>(argument))(); }

} // namespace

Code::Code(std::size_t versions) : size_((versions * version_size + 4095) & ~std::size_t(4095)) {
  memory_ = static_cast<unsigned char*>(
      mmap(nullptr, size_, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  EXPECT_NE(memory_, MAP_FAILED);
  for (std::size_t v = 0; v < versions; ++v) make(v);
}

// The address is never used again: what one test leaves on the stacks of threads must not be taken for frames in another.
Code::~Code() { mmap(memory_, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0); }

Range Code::range(std::size_t version) const {
  const Addr begin = Addr::of(memory_ + version * version_size);
  return {begin, begin + version_size};
}

void Code::make(std::size_t version) {
  unsigned char* const at = memory_ + version * version_size;
  std::memset(at, 0xcc, version_size);
  std::memcpy(at, through_code, sizeof through_code);
  std::memcpy(at + spin_offset, spin_code, sizeof spin_code);
}

void Code::fill_with_traps(std::size_t version) { std::memset(memory_ + version * version_size, 0xcc, version_size); }

Code::Through Code::through(std::size_t version) const { return range(version).begin.as<Through>(); }
Code::Spin Code::spin(std::size_t version) const { return (range(version).begin + spin_offset).as<Spin>(); }

void Code::call(const std::function<void()>& function, std::size_t version) const {
  through(version)(call_function, const_cast<std::function<void()>*>(&function));
}

Gate::Gate() { EXPECT_EQ(pipe(ends_), 0); }
Gate::~Gate() {
  close(ends_[0]);
  close(ends_[1]);
}
void Gate::wait() const {
  char byte = 0;
  while (read(ends_[0], &byte, 1) < 0) {
  }
}
void Gate::open(int times) const {
  for (int i = 0; i < times; ++i) EXPECT_EQ(write(ends_[1], "", 1), 1);
}

Worker::Worker(std::function<void()> body, const char* name) {
  thread_ = std::thread([this, name, body = std::move(body)] {
    pthread_setname_np(pthread_self(), name);
    tid_.store(own_tid());
    body();
  });
  while (tid_.load() == 0) std::this_thread::yield();
}
Worker::~Worker() { join(); }
pid_t Worker::tid() const { return tid_.load(); }
void Worker::join() {
  if (thread_.joinable()) thread_.join();
}
void Worker::wait_until_blocked() const {
  const Result<TaskFolder> tasks = TaskFolder::open();
  ASSERT_TRUE(tasks.ok());
  for (int i = 0; i < 20'000; ++i) {
    if (tasks->standing(tid()).activity == TaskFolder::Activity::blocked) return;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  FAIL() << "the thread does not block";
}

Look look(Stacks& stacks, pid_t tid, Range range) {
  const RangeSet ranges(std::span<const Range>(&range, 1));
  Result<Round> round = Round::begin(stacks, ranges);
  EXPECT_TRUE(round.ok());
  return round->look_at(tid);
}

Look look(pid_t tid, Range range) {
  Stacks stacks;
  return look(stacks, tid, range);
}

std::uint64_t seed() {
  const char* const given = std::getenv("TENON_SEED");
  const std::uint64_t value = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device()();
  std::printf("TENON_SEED=%llu\n", static_cast<unsigned long long>(value));
  return value;
}

} // namespace tenon::reclaim::test
