// CompilerPool: order kept, errors stay where they belong, the same bytes as one Compiler gives.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "samples.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace tenon::testing {
namespace {

CompilerPool pool(unsigned threads) {
  auto made = CompilerPool::create({}, threads);
  EXPECT_TRUE(made.ok());
  return std::move(*made);
}

TEST(CompilerPool, KeepsTheOrderAndOneBadModuleStopsNoOther) {
  std::vector<std::string> sources;
  for (int i = 0; i < 16; ++i) sources.push_back(i == 5 ? "define i32 @f() {\n  nonsense\n}\n" : numbered_ir(i));
  std::vector<CompilerPool::Input> inputs;
  for (int i = 0; i < 16; ++i) inputs.push_back({bytes_of(sources[i]), "m" + std::to_string(i)});
  auto workers = pool(4);
  EXPECT_EQ(workers.threads(), 4u);
  auto single = Compiler::create();
  ASSERT_TRUE(single.ok());
  for (int round = 0; round < 3; ++round) {
    const auto objects = workers.compile(inputs).value();
    ASSERT_EQ(objects.size(), 16u);
    for (int i = 0; i < 16; ++i) {
      if (i == 5) {
        ASSERT_FALSE(objects[i].ok());
        EXPECT_THAT(objects[i].error().message, ::testing::HasSubstr("m5:2:"));
        continue;
      }
      ASSERT_TRUE(objects[i].ok()) << objects[i].error().message;
      EXPECT_EQ(objects[i]->name(), "m" + std::to_string(i));
      EXPECT_NE(find_symbol(*objects[i], "f" + std::to_string(i)), nullptr);
      auto expected = single->compile_ir(inputs[i].ir, inputs[i].name);
      ASSERT_TRUE(expected.ok());
      EXPECT_EQ(string_of(objects[i]->bytes()), string_of(expected->bytes()));
    }
  }
}

TEST(CompilerPool, NothingToDoIsDoneAtOnce) { EXPECT_TRUE(pool(1).compile({}).value().empty()); }

TEST(CompilerPool, FinishesWhatWasSubmittedAndFreesTheInput) {
  auto source = std::make_shared<const std::string>(rich_ir);
  std::vector<std::future<Result<Object>>> results;
  {
    auto workers = pool(2);
    for (int i = 0; i < 6; ++i) results.push_back(workers.submit({bytes_of(*source), "rich", source}).value());
  }
  for (auto& result : results) EXPECT_TRUE(result.get().ok());
  EXPECT_EQ(source.use_count(), 1);
}

TEST(CompilerPool, ServesSeveralThreads) {
  auto workers = pool(2);
  std::vector<std::thread> clients;
  std::atomic<int> right = 0;
  for (int c = 0; c < 4; ++c)
    clients.emplace_back([&, c] {
      for (int i = 0; i < 5; ++i) {
        const std::string source = numbered_ir(c * 100 + i);
        const CompilerPool::Input input{bytes_of(source), "m"};
        const auto objects = workers.compile({&input, 1}).value();
        if (objects[0].ok() && find_symbol(*objects[0], "f" + std::to_string(c * 100 + i))) ++right;
      }
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, 20);
}

} // namespace
} // namespace tenon::testing
