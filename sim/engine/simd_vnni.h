// AVX-512 with VNNI: 16 lanes.
#ifndef HWQ_ENGINE_SIMD_VNNI_H
#define HWQ_ENGINE_SIMD_VNNI_H

#ifdef HWQ_ENGINE_SIMDE // the same instructions in software, to test this file on any CPU
#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#else
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized" // g++ 12 blames its own header
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace hwq::engine {

constexpr int LANES = 16;
constexpr int PIXELS = 8;
constexpr bool HAS_BYTES = true;

using Vec = __m512i;
typedef int32_t Lanes __attribute__((vector_size(64)));
typedef uint32_t Bits __attribute__((vector_size(64)));
struct Sums {
  __m512i even, odd;
};

inline Vec load(const void *p) { return _mm512_loadu_si512(p); }
inline void store(void *p, Vec v) { _mm512_storeu_si512(p, v); }
inline Vec all(int32_t x) { return _mm512_set1_epi32(x); }
inline Vec four_bytes(const void *p) {
  int32_t x;
  memcpy(&x, p, 4);
  return _mm512_set1_epi32(x);
}
inline Vec add(Vec a, Vec b) { return _mm512_add_epi32(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_epi32(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mullo_epi32(a, b); }
inline Vec least(Vec a, Vec b) { return _mm512_min_epi32(a, b); }
inline Vec most(Vec a, Vec b) { return _mm512_max_epi32(a, b); }
template <int N> inline Vec left(Vec a) { return _mm512_slli_epi32(a, N); }
inline Vec raised(Vec a, int n) { return Vec(Bits(a) << n); }
template <int N> inline Vec right(Vec a) { return Vec(Lanes(a) >> N); }
inline Vec add16(Vec a, Vec b) { return _mm512_add_epi16(a, b); }
inline Vec sub16(Vec a, Vec b) { return _mm512_sub_epi16(a, b); }
template <int N> inline Vec left16(Vec a) { return _mm512_slli_epi16(a, N); }
template <class T> inline Vec widen(const T *p) {
  typedef T Narrow __attribute__((vector_size(LANES * sizeof(T))));
  Narrow x;
  memcpy(&x, p, sizeof x);
  return Vec(__builtin_convertvector(x, Lanes));
}
template <class T> inline void store_low(void *p, Vec v) {
  typedef T Narrow __attribute__((vector_size(LANES * sizeof(T))));
  const Narrow low = __builtin_convertvector(Lanes(v), Narrow);
  memcpy(p, &low, sizeof low);
}
inline void store_bytes(void *p, Vec v) { store_low<int8_t>(p, v); }
inline void store_words(void *p, Vec v) { store_low<int16_t>(p, v); }

inline Vec dot_words(Vec acc, Vec x, Vec w) { return _mm512_dpwssd_epi32(acc, x, w); }

// acc + the sum of four u8 x s8 products a lane; the plain form, which wraps and never saturates.
inline Vec dot_bytes(Vec acc, Vec x, Vec w) { return _mm512_dpbusd_epi32(acc, x, w); }

inline Sums sums(const int64_t *p) { return {load(p), load(p + LANES / 2)}; }
inline Sums multiply_add(Sums s, Vec x, Vec m) {
  s.even = _mm512_add_epi64(s.even, _mm512_mul_epi32(x, m));
  s.odd = _mm512_add_epi64(s.odd, _mm512_mul_epi32(_mm512_srli_epi64(x, 32), _mm512_srli_epi64(m, 32)));
  return s;
}
inline Vec high(Sums s) { return _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(s.even, 32), s.odd); }
inline Vec low(Sums s) { return _mm512_mask_blend_epi32(0xAAAA, s.even, _mm512_slli_epi64(s.odd, 32)); }
inline bool any_below(Vec a, Vec b) { return _mm512_cmple_epu32_mask(b, a) != 0xFFFF; }
inline Vec shifted(Sums s, Sums by) {
  const Vec even = _mm512_srlv_epi64(s.even, by.even), odd = _mm512_srlv_epi64(s.odd, by.odd);
  return _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
}

} // namespace hwq::engine

#endif
