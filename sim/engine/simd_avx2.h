// AVX2: 8 lanes.
#ifndef HWQ_ENGINE_SIMD_AVX2_H
#define HWQ_ENGINE_SIMD_AVX2_H

#include <immintrin.h>

namespace hwq::engine {

constexpr int LANES = 8;
constexpr int PIXELS = 4;
constexpr bool HAS_BYTES = false;

using Vec = __m256i;
struct Sums {
  __m256i even, odd;
};

inline Vec load(const void *p) { return _mm256_loadu_si256(static_cast<const __m256i *>(p)); }
inline void store(void *p, Vec v) { _mm256_storeu_si256(static_cast<__m256i *>(p), v); }
inline Vec all(int32_t x) { return _mm256_set1_epi32(x); }
inline Vec four_bytes(const void *p) { // the same 4 bytes in every lane
  int32_t x;
  memcpy(&x, p, 4);
  return _mm256_set1_epi32(x);
}
inline Vec add(Vec a, Vec b) { return _mm256_add_epi32(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_epi32(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mullo_epi32(a, b); }
inline Vec least(Vec a, Vec b) { return _mm256_min_epi32(a, b); }
inline Vec most(Vec a, Vec b) { return _mm256_max_epi32(a, b); }
template <int N> inline Vec left(Vec a) { return _mm256_slli_epi32(a, N); }
inline Vec raised(Vec a, int n) { return _mm256_slli_epi32(a, n); }
template <int N> inline Vec right(Vec a) { return _mm256_srai_epi32(a, N); }
inline Vec add16(Vec a, Vec b) { return _mm256_add_epi16(a, b); }
inline Vec sub16(Vec a, Vec b) { return _mm256_sub_epi16(a, b); }
template <int N> inline Vec left16(Vec a) { return _mm256_slli_epi16(a, N); }
// LANES integers -> int32
inline Vec widen(const int16_t *p) {
  return _mm256_cvtepi16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(p)));
}
inline Vec widen(const int8_t *p) { return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))); }
inline Vec widen(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(p))); }
// LANES x int32 -> their low bytes, their low 16 bits
inline void store_bytes(void *p, Vec v) {
  const Vec four = _mm256_shuffle_epi8(v, _mm256_set1_epi32(0x0C080400)); // of each half
  const __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(four), _mm256_extracti128_si256(four, 1));
  _mm_storel_epi64(static_cast<__m128i *>(p), eight);
}
inline void store_words(void *p, Vec v) {
  const Vec four = _mm256_shuffle_epi8(v, _mm256_set1_epi64x(0x0D0C090805040100)); // of each half, twice
  _mm_storeu_si128(static_cast<__m128i *>(p), _mm256_castsi256_si128(_mm256_permute4x64_epi64(four, 0x08)));
}

// acc + x0 w0 + x1 w1 on the pairs of int16 of each lane. The pair's sum fits int32: nothing is -2^15.
inline Vec dot_words(Vec acc, Vec x, Vec w) { return _mm256_add_epi32(acc, _mm256_madd_epi16(x, w)); }

inline Sums sums(const int64_t *p) { return {load(p), load(p + LANES / 2)}; }
inline Sums multiply_add(Sums s, Vec x, Vec m) {
  s.even = _mm256_add_epi64(s.even, _mm256_mul_epi32(x, m));
  s.odd = _mm256_add_epi64(s.odd, _mm256_mul_epi32(_mm256_srli_epi64(x, 32), _mm256_srli_epi64(m, 32)));
  return s;
}
inline Vec high(Sums s) { // upper halves
  return _mm256_blend_epi32(_mm256_srli_epi64(s.even, 32), s.odd, 0xAA);
}
inline Vec low(Sums s) { // lower halves
  return _mm256_blend_epi32(s.even, _mm256_slli_epi64(s.odd, 32), 0xAA);
}
inline bool any_below(Vec a, Vec b) { // in any lane, unsigned
  return _mm256_movemask_epi8(_mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a)) != -1;
}
inline Vec shifted(Sums s, Sums by) { // low halves of the logical shifts
  const Vec even = _mm256_srlv_epi64(s.even, by.even), odd = _mm256_srlv_epi64(s.odd, by.odd);
  return _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
}

} // namespace hwq::engine

#endif
