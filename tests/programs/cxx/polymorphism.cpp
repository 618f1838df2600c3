// Virtual calls, dynamic_cast, typeid, std::function and the one-definition rule across modules.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "polymorphism.h"
#include <any>
#include <cstdio>
#include <map>
#include <variant>

namespace {
struct Wide : Square {
  using Square::Square;
  std::string name() const override { return "wide " + Square::name(); }
};

const std::type_info& type_of(const Shape& shape) { return typeid(shape); }
} // namespace

int main() {
  std::vector<std::unique_ptr<Shape>> shapes;
  shapes.push_back(make_shape(0));
  shapes.push_back(make_shape(1));
  shapes.push_back(std::make_unique<Wide>(3));
  for (const auto& shape : shapes) {
    auto* named = dynamic_cast<Named*>(shape.get());
    auto* square = dynamic_cast<const Square*>(shape.get());
    std::printf("%s %.1f %s %d %s\n", shape->name().c_str(), shape->area(), named ? named->label().c_str() : "-",
                square != nullptr, type_of(*shape).name());
  }
  try {
    (void)dynamic_cast<Named&>(*shapes[1]);
  } catch (const std::bad_cast& e) {
    std::printf("%s\n", e.what());
  }
  std::printf("typeid %d %d\n", square_type() == typeid(Square), square_type() == type_of(*shapes[2]));
  ++inline_counter();
  Registry<std::string>::entries.push_back("main");
  std::printf("one definition %d %d %d %zu %d\n", &inline_counter() == counter_from_other_module(),
              &inline_variable == variable_from_other_module(), inline_counter(), Registry<std::string>::entries.size(),
              inline_function_pointer() == &twice);
  int offset = 10;
  std::printf("compose %d\n", compose([offset](int x) { return x + offset; }, twice)(16));
  std::variant<int, std::string, double> value = std::string("text");
  std::visit([](const auto& v) { std::printf("visit %zu\n", sizeof v); }, value);
  std::map<std::string, std::any> any{{"a", 1}, {"b", std::string("two")}};
  std::printf("any %d %s\n", std::any_cast<int>(any["a"]), std::any_cast<std::string>(any["b"]).c_str());
  double (Shape::*member)() const = &Shape::area;
  std::printf("member %.1f\n", (shapes[0].get()->*member)());
  return 0;
}
