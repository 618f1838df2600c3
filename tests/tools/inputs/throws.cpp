// Throws through a frame of its own and back.
#include <cstdio>
#include <exception>

static int depth(int n) {
  if (n == 0) throw 42;
  return depth(n - 1) + 1;
}

int main() {
  try {
    return depth(3);
  } catch (int value) {
    std::printf("caught %d\n", value);
  }
  return 0;
}
