// CompilerPool: one queue, one Compiler per worker. Modules differ in size by orders of magnitude, so workers take the next
// one when they are free; nothing is dealt out beforehand.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "base/guarded.h"

#include <tenon/llvm.h>

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

namespace tenon {

struct CompilerPool::State {
  struct Job {
    Input input;
    std::promise<Result<Object>> promise;
  };

  explicit State(const CompileOptions& options) : options(options) {}
  ~State();

  void work();

  const CompileOptions options;
  std::mutex mutex; // guards queue and closing
  std::condition_variable changed;
  std::deque<Job> queue;
  bool closing = false;
  std::vector<std::thread> workers;
};

CompilerPool::State::~State() {
  {
    const std::lock_guard lock(mutex);
    closing = true;
  }
  changed.notify_all();
  for (std::thread& worker : workers) worker.join();
}

void CompilerPool::State::work() {
  // Made by the worker, in parallel and near its processor. That the options can be served is known from create().
  Result<Compiler> compiler = Compiler::create(options);
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [this] { return closing || !queue.empty(); });
    if (queue.empty()) return; // closing, and nothing left to do
    Job job = std::move(queue.front());
    queue.pop_front();
    lock.unlock();
    Result<Object> object = base::guarded([&]() -> Result<Object> {
      if (!compiler) return compiler.error(); // a copy: there is one for each job
      if (job.input.functions.empty())
        return compiler->compile_ir(job.input.ir, std::move(job.input.name), job.input.strip_debug_info);
      const std::vector<std::string_view> functions(job.input.functions.begin(), job.input.functions.end());
      return compiler->compile_functions_ir(job.input.ir, std::move(job.input.name), functions);
    });
    job.input.owner.reset(); // before the client can see the result
    job.promise.set_value(std::move(object));
    lock.lock();
  }
}

CompilerPool::CompilerPool(std::unique_ptr<State> state) noexcept : state_(std::move(state)) {}
CompilerPool::CompilerPool(CompilerPool&&) noexcept = default;
CompilerPool& CompilerPool::operator=(CompilerPool&&) noexcept = default;
CompilerPool::~CompilerPool() = default;

Result<CompilerPool> CompilerPool::create(const CompileOptions& options, unsigned threads) {
  return base::guarded([&]() -> Result<CompilerPool> {
    if (auto usable = Compiler::create(options); !usable) return std::move(usable).error();
    if (threads == 0) threads = std::max(1u, std::thread::hardware_concurrency());
    auto state = std::make_unique<State>(options);
    state->workers.reserve(threads);
    try {
      for (unsigned i = 0; i < threads; ++i) state->workers.emplace_back([state = state.get()] { state->work(); });
    } catch (const std::system_error& error) {
      return Error{ErrorCode::system, std::string("can't start a compiler thread: ") + error.what()};
    }
    return CompilerPool(std::move(state));
  });
}

unsigned CompilerPool::threads() const noexcept { return static_cast<unsigned>(state_->workers.size()); }

Result<std::future<Result<Object>>> CompilerPool::submit(Input input) {
  return base::guarded([&]() -> Result<std::future<Result<Object>>> {
    State::Job job{std::move(input), {}};
    std::future<Result<Object>> result = job.promise.get_future();
    {
      const std::lock_guard lock(state_->mutex);
      state_->queue.push_back(std::move(job));
    }
    state_->changed.notify_one();
    return result;
  });
}

Result<std::vector<Result<Object>>> CompilerPool::compile(std::span<const Input> inputs) {
  return base::guarded([&]() -> Result<std::vector<Result<Object>>> {
    std::vector<Result<std::future<Result<Object>>>> pending;
    std::vector<Result<Object>> results;
    pending.reserve(inputs.size());
    results.reserve(inputs.size());
    // From here on nothing throws: the client may free the inputs when this returns, so all that were taken must be done.
    for (const Input& input : inputs) pending.push_back(base::guarded([&] { return submit(Input(input)); }));
    for (auto& result : pending) results.push_back(result ? result->get() : Result<Object>(std::move(result).error()));
    return results;
  });
}

} // namespace tenon
