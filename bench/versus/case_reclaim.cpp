// The case reclaim/p99: from the moment that the last frame has left a superseded version to that of its memory being free.
//
// A thread waits inside the old version, in a function of the host, for longer than the engine needs to have looked at it;
// then it returns and goes to sleep (`asleep`: it is looked at from outside), or goes on running and has registered at the
// border (`border`). A case whose memory goes while the thread is still inside has failed: the thread is never let go then.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "cases.h"
#include "live.h"

#include <unistd.h>

#include <atomic>
#include <memory>
#include <optional>
#include <semaphore>
#include <thread>

namespace versus {
namespace {

constexpr std::size_t usual_rounds = 3;
constexpr std::size_t frames_per_round = 100;
constexpr useconds_t linger_us = 3000;
constexpr double patience_ms = 2000;

// What the thread and the one that swaps tell each other. Outlives both if the thread must stay inside.
struct Scene {
  std::binary_semaphore enter{0}, inside{0}, leave{0};
  std::atomic<double> left_ms{0};
  std::atomic<bool> ending{false};
  bool registered = false;
};

thread_local Scene* scene = nullptr;

void wait_inside() {
  if (scene == nullptr) return;
  scene->inside.release();
  scene->leave.acquire();
}

void stay(LiveFunction& live, const std::shared_ptr<Scene>& mine) {
  scene = mine.get();
  std::optional<tenon::Border> border;
  if (mine->registered)
    if (auto made = live.engine().border("inside")) border.emplace(std::move(*made));
  for (;;) {
    // A registered one runs all the time, the other sleeps.
    if (mine->registered)
      while (!mine->enter.try_acquire()) __builtin_ia32_pause();
    else
      mine->enter.acquire();
    if (mine->ending) return;
    if (border) {
      tenon::Border::Entry entry(*border);
      (void)live.caller()(0);
    } else {
      (void)live.caller()(0);
    }
    mine->left_ms.store(now_ms(), std::memory_order_release);
  }
}

// One frame: into the old version, a swap, out again. In ms.
Result<double> one_frame(LiveFunction& live, Scene& mine) {
  const std::uint64_t before = live.engine().usage().live;
  mine.left_ms = 0;
  mine.enter.release();
  mine.inside.acquire();
  if (auto swapped = live.swap(); !swapped) return std::move(swapped).error();
  usleep(linger_us);
  if (live.engine().usage().live <= before) return Error{ErrorCode::unsupported, "freed while a thread was inside"};
  mine.leave.release();
  const double begin = now_ms();
  while (live.engine().usage().live > before) {
    if (now_ms() - begin > patience_ms) return Error{ErrorCode::unsupported, "not freed for seconds after all had left"};
    usleep(50);
  }
  const double freed = now_ms();
  while (mine.left_ms.load(std::memory_order_acquire) == 0) std::this_thread::yield();
  return freed - mine.left_ms.load(std::memory_order_acquire);
}

Result<Samples> frames(LiveFunction& live, bool registered) {
  auto mine = std::make_shared<Scene>();
  mine->registered = registered;
  std::thread thread([&live, mine] { stay(live, mine); });
  Samples samples;
  for (std::size_t i = 0; i < frames_per_round; ++i) {
    auto freed = one_frame(live, *mine);
    if (!freed) {
      thread.detach();
      return std::move(freed).error();
    }
    samples.add(*freed);
  }
  mine->ending = true;
  mine->enter.release();
  thread.join();
  return samples;
}

Row run_reclaim(const Settings& settings) {
  Row row{"reclaim/p99", "ms", {}, {}, {}};
  auto live = LiveFunction::create(wait_inside);
  if (!live) return row.faults.push_back(live.error().message), row;
  std::vector<Figure> figures{{"asleep", {}, {}}, {"border", {}, {}}};
  settings.progress(row.case_name);
  in_turns(figures.size(), settings.repeat != 0 ? settings.repeat : usual_rounds, [&](std::size_t index) {
    if (!row.faults.empty()) return;
    auto samples = frames(**live, index == 1);
    if (samples)
      figures[index].samples.add(samples->quantile(0.99));
    else
      row.faults.push_back(figures[index].name + ": " + samples.error().message);
  });
  if (!row.faults.empty()) {
    (void)live->release(); // a thread may be inside for good
    return row;
  }
  row.figures = std::move(figures);
  row.note = "each round " + std::to_string(frames_per_round) + " times a frame left inside for " +
             std::to_string(linger_us / 1000) + " ms";
  return row;
}

} // namespace

std::vector<Case> reclaim_cases() {
  return {{"reclaim/p99", "from the last frame's leaving a superseded version to its memory being free", run_reclaim}};
}

} // namespace versus
