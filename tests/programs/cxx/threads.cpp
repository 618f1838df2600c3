// Threads, mutexes, condition variables, futures, atomics.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <future>
#include <mutex>
#include <numeric>
#include <queue>
#include <shared_mutex>
#include <thread>
#include <vector>

namespace {

template <class T> class Channel {
public:
  void send(T value) {
    std::lock_guard lock(mutex_);
    queue_.push(std::move(value));
    ready_.notify_one();
  }
  T receive() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return !queue_.empty(); });
    T value = std::move(queue_.front());
    queue_.pop();
    return value;
  }

private:
  std::mutex mutex_;
  std::condition_variable ready_;
  std::queue<T> queue_;
};

} // namespace

int main() {
  Channel<int> in;
  Channel<long> out;
  std::vector<std::jthread> workers;
  for (int i = 0; i < 4; ++i)
    workers.emplace_back([&] {
      for (int n; (n = in.receive()) >= 0;) out.send(long(n) * n);
    });
  for (int i = 0; i < 1000; ++i) in.send(i);
  long sum = 0;
  for (int i = 0; i < 1000; ++i) sum += out.receive();
  for (int i = 0; i < 4; ++i) in.send(-1);
  workers.clear();
  std::printf("squares %ld\n", sum);

  std::atomic<long> counter{0};
  std::shared_mutex shared;
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < 5000; ++i) {
        std::shared_lock lock(shared);
        counter.fetch_add(t, std::memory_order_relaxed);
      }
    });
  for (auto& thread : threads) thread.join();
  std::printf("counter %ld\n", counter.load());

  std::promise<int> promise;
  auto future = promise.get_future();
  std::thread setter([&promise] { promise.set_value_at_thread_exit(17); });
  std::printf("future %d\n", future.get());
  setter.join();
  std::vector<std::future<int>> parts;
  for (int i = 0; i < 6; ++i)
    parts.push_back(std::async(i % 2 ? std::launch::async : std::launch::deferred, [i] {
      std::vector<int> values(1000);
      std::iota(values.begin(), values.end(), i);
      return std::accumulate(values.begin(), values.end(), 0);
    }));
  int all = 0;
  for (auto& part : parts) all += part.get();
  std::printf("parts %d\n", all);
  return 0;
}
