// A module that stays and is replaced all the time. Compiled with MODULE (its number), NEXT_MODULE (whose functions it calls)
// and VARIANT, which makes versions differ in more than their serial number: each version that is linked gets a serial
// number of its own, put in place of this one where instructions load it.
// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#define GLUE(a, b) a##b
#define JOIN(a, b) GLUE(a, b)
#define OWN(name) JOIN(name##_, MODULE)
#define NEXT(name) JOIN(name##_, NEXT_MODULE)
#define TEXT(x) #x
#define TEXT_OF(x) TEXT(x)
#define SERIAL                                                                                                              \
  __extension__({                                                                                                           \
    unsigned serial;                                                                                                        \
    asm volatile("movl $0x5EEDF00D, %0" : "=r"(serial));                                                                    \
    serial;                                                                                                                 \
  })

using u64 = unsigned long;
using torture::Payload;
using torture::Shape;
using torture::Tally;
using torture::Visit;

namespace {

// Comes and goes from version to version, but not where a call may make the module again.
#if MODULE % 2 == 0
#define HELPER helper
#else
#define HELPER JOIN(helper_, VARIANT)
#endif
[[gnu::noinline]] u64 HELPER(u64 x) { return x * 3 + MODULE; }

// In all versions, and its address is taken.
[[gnu::noinline]] u64 fixed(u64 x) { return u64(SERIAL) << 32 | unsigned(x + 7); }

struct Leaving {
  Visit* visit;
  ~Leaving() { ++visit->left; }
};

thread_local u64 mine = 0;
u64 counted = 0;

} // namespace

// In a group that all modules share.
template <class T> T shared_double(T x) { return x + x; }

struct OWN(Square) final : Shape {
  u64 area(u64 x) override { return u64(SERIAL) << 32 | unsigned(x * x); }
};

#if VARIANT == 4 // what others need is not there
extern "C" {
#else
extern "C" {
u64 OWN(value)(u64 x) {
  return u64(SERIAL) << 32 | unsigned(HELPER(x));
}
u64 OWN(relay)(Visit* visit, u64 depth, u64 x);
#endif
u64 NEXT(value)(u64 x);
u64 NEXT(relay)(Visit* visit, u64 depth, u64 x);
unsigned pair_left();
unsigned pair_right();
#if VARIANT == 5
u64 nobody_has_this(u64 x);
#endif

// Size and alignment are kept, except by the bad version.
#if VARIANT == 6
u64 OWN(room)[8] = {1, 2};
#else
u64 OWN(room)[4] = {1, 2};
#endif
OWN(Square) OWN(object);

void OWN(loop)(u64 n, Tally* tally) {
  unsigned last = 0;
  for (u64 i = 0; i < n; ++i) {
    const u64 got = NEXT(value)(i);
    tally->wrong += unsigned(got) != unsigned(i * 3 + NEXT_MODULE);
    const unsigned serial = unsigned(got >> 32);
    if (serial < last) {
      ++tally->disorder;
      tally->later = last;
      tally->earlier = serial;
      tally->when = i;
    }
    last = serial;
    if (serial < tally->first) tally->first = serial;
    if (serial > tally->last) tally->last = serial;
  }
}

// How often the two functions of the set were not of one version.
u64 OWN(pairs)(u64 n) {
  u64 differ = 0;
  for (u64 i = 0; i < n; ++i) differ += pair_left() != pair_right();
  return differ;
}

u64 OWN(relay)(Visit* visit, u64 depth, u64 x) {
  Leaving leaving{visit};
  ++visit->entered;
  const unsigned before = SERIAL;
  visit->serials[depth] = before;
  visit->modules[depth] = MODULE;
  u64 result = 0;
  if (depth == 0) {
    visit->argument = x;
    torture_visit(visit);
    if (visit->action == Visit::throw_inside) throw Payload{SERIAL, MODULE, x};
    result = x;
  } else if (depth % 3 == 1) {
    try {
      result = NEXT(relay)(visit, depth - 1, x + 1);
    } catch (Payload& payload) {
      if (payload.value == x + depth) ++visit->caught;
      throw;
    }
  } else if (depth % 3 == 2) {
    result = OWN(relay)(visit, depth - 1, x + 1);
  } else {
    result = NEXT(relay)(visit, depth - 1, x + 1);
  }
  if (SERIAL != before) ++visit->broken;
  return result + 1;
}

u64 OWN(count)() { return __atomic_add_fetch(&counted, 1, __ATOMIC_RELAXED); }
u64 OWN(mine)() { return ++mine; }

void OWN(identity)(const void** out) {
  out[0] = reinterpret_cast<const void*>(&OWN(loop));
  out[1] = reinterpret_cast<const void*>(&fixed);
  out[2] = "a literal of module " TEXT_OF(MODULE);
  out[3] = &OWN(object);
  Shape* shape = &OWN(object);
  out[4] = *reinterpret_cast<const void**>(shape);
  out[5] = dynamic_cast<OWN(Square)*>(shape);
}

u64 OWN(fixed_pointer)(u64 x) {
#if VARIANT == 5
  return nobody_has_this(x);
#endif
  static u64 (*volatile pointer)(u64) = fixed;
  OWN(room)[0] = shared_double(x);
  return pointer(x);
}
}
