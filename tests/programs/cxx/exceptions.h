// What the modules of the exceptions program share.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#pragma once
#include <functional>
#include <stdexcept>
#include <string>

struct Trace {
  explicit Trace(const char* name);
  ~Trace();
  const char* name;
};

class AppError : public std::runtime_error {
public:
  AppError(const std::string& text, int code) : std::runtime_error(text), code_(code) {}
  virtual int code() const { return code_; }

private:
  int code_;
};

class DerivedError : public AppError {
public:
  explicit DerivedError(int code) : AppError("derived", code) {}
  int code() const override { return AppError::code() * 2; }
};

struct LocalPayload {
  long values[40];
};

void throw_by_kind(int kind);                   // exceptions_throw.cpp
int guarded(const std::function<void()>& body); // exceptions_catch.cpp
int through_many(int depth, const std::function<void()>& body);
[[noreturn]] void rethrow_nested();
