// Any CPU: 4 lanes in the vector types that g++ and clang offer everywhere.
#ifndef HWQ_ENGINE_SIMD_PORTABLE_H
#define HWQ_ENGINE_SIMD_PORTABLE_H

#if defined(__SSE2__) && !defined(HWQ_ENGINE_PLAIN)
#include <emmintrin.h> // part of every x86-64
#define HWQ_ENGINE_SSE2
#endif

namespace hwq::engine {

constexpr int LANES = 4;
constexpr int PIXELS = 4;
constexpr bool HAS_BYTES = false;

typedef int32_t Vec __attribute__((vector_size(16)));
typedef uint32_t Bits __attribute__((vector_size(16)));
typedef uint16_t Bits16 __attribute__((vector_size(16)));
struct Sums {
  uint64_t even[2], odd[2];
};

inline Vec load(const void *p) {
  Vec v;
  memcpy(&v, p, sizeof v);
  return v;
}
inline void store(void *p, Vec v) { memcpy(p, &v, sizeof v); }
inline Vec all(int32_t x) { return Vec{x, x, x, x}; }
inline Vec four_bytes(const void *p) {
  int32_t x;
  memcpy(&x, p, 4);
  return all(x);
}
// unsigned: what wraps must be allowed to
inline Vec add(Vec a, Vec b) { return Vec(Bits(a) + Bits(b)); }
inline Vec sub(Vec a, Vec b) { return Vec(Bits(a) - Bits(b)); }
inline Vec mul(Vec a, Vec b) { return Vec(Bits(a) * Bits(b)); }
inline Vec least(Vec a, Vec b) {
  const Vec less = a < b;
  return (a & less) | (b & ~less);
}
inline Vec most(Vec a, Vec b) {
  const Vec less = a < b;
  return (b & less) | (a & ~less);
}
template <int N> inline Vec left(Vec a) { return Vec(Bits(a) << N); }
inline Vec raised(Vec a, int n) { return Vec(Bits(a) << n); }
template <int N> inline Vec right(Vec a) { return a >> N; }
inline Vec add16(Vec a, Vec b) { return Vec(Bits16(a) + Bits16(b)); }
inline Vec sub16(Vec a, Vec b) { return Vec(Bits16(a) - Bits16(b)); }
template <int N> inline Vec left16(Vec a) { return Vec(Bits16(a) << N); }
template <class T> inline Vec widen(const T *p) { return Vec{p[0], p[1], p[2], p[3]}; }
template <class T> inline void store_low(void *p, Vec v) {
  const T low[] = {static_cast<T>(v[0]), static_cast<T>(v[1]), static_cast<T>(v[2]), static_cast<T>(v[3])};
  memcpy(p, low, sizeof low);
}
inline void store_bytes(void *p, Vec v) { store_low<uint8_t>(p, v); }
inline void store_words(void *p, Vec v) { store_low<uint16_t>(p, v); }

inline Vec dot_words(Vec acc, Vec x, Vec w) {
#ifdef HWQ_ENGINE_SSE2
  return add(acc, Vec(_mm_madd_epi16(__m128i(x), __m128i(w))));
#else
  int16_t a[8], b[8]; // in memory order, whichever end comes first
  memcpy(a, &x, sizeof a);
  memcpy(b, &w, sizeof b);
  Vec pairs = {};
  for (int i = 0; i < LANES; ++i) pairs[i] = a[2 * i] * b[2 * i] + a[2 * i + 1] * b[2 * i + 1];
  return add(acc, pairs);
#endif
}

inline Sums sums(const int64_t *p) {
  Sums s;
  memcpy(&s, p, sizeof s);
  return s;
}
inline Sums multiply_add(Sums s, Vec x, Vec m) {
  for (int i = 0; i < 2; ++i) {
    s.even[i] += static_cast<uint64_t>(int64_t(x[2 * i]) * m[2 * i]);
    s.odd[i] += static_cast<uint64_t>(int64_t(x[2 * i + 1]) * m[2 * i + 1]);
  }
  return s;
}
inline Vec high(Sums s) {
  Vec v = {};
  for (int i = 0; i < 2; ++i) {
    v[2 * i] = static_cast<int32_t>(s.even[i] >> 32);
    v[2 * i + 1] = static_cast<int32_t>(s.odd[i] >> 32);
  }
  return v;
}
inline Vec low(Sums s) {
  Vec v = {};
  for (int i = 0; i < 2; ++i) {
    v[2 * i] = static_cast<int32_t>(s.even[i]);
    v[2 * i + 1] = static_cast<int32_t>(s.odd[i]);
  }
  return v;
}
inline bool any_below(Vec a, Vec b) {
  const Vec below = Bits(a) < Bits(b);
  return (below[0] | below[1] | below[2] | below[3]) != 0;
}
inline Vec shifted(Sums s, Sums by) {
  Vec v = {};
  for (int i = 0; i < 2; ++i) {
    v[2 * i] = static_cast<int32_t>(s.even[i] >> by.even[i]);
    v[2 * i + 1] = static_cast<int32_t>(s.odd[i] >> by.odd[i]);
  }
  return v;
}

} // namespace hwq::engine

#endif
