// y = clamp(floor((sum_i x_i M_i + B) / 2^F), lo, hi) a channel, on a strip of pixels that is in the cache.
// B holds the rounding half. docs/numerics.md, "Evaluation"; hwq.ir.Requant aligns the constants.
//
// NARROW: |x|, |M| < 2^31, |sum| < 2^63, |quotient| < 2^31. Sums carry 2^63 as offset (in B), so a logical shift
// does; the low half of (s + 2^63) >> F is that of the quotient plus 2^(63-F), which `minus` takes away again.
//   multipliers: int32 [term][C padded]; minus: int32 [C padded]; lo, hi within int32
//   bias, shift: int64 [vector][LANES], the even lanes of each vector first
// HIGH: constants of NARROW times 2^(32-F), but for the second term's factor 2^lift, which its codes take; no offset,
// shift or minus. The bias is rounded down: less than 1 cannot carry into the upper half of a sum of integers.
// FILTERED: HIGH with multipliers that are rounded, so that the sum s is inexact. The exact one lies in [s - doubt, s + 1):
// where the lower half of s is `doubt` or more, both have the same upper half. A vector with less in any lane is computed
// again, from the op `exact`. Lanes past the last channel have no doubt.
//   doubt: uint32 [C padded]
// LONG, WIDE: bias [C] of int64 or of 128 bits; multipliers [term][C] of int64, or of 128 bits for WIDE with
// `wide` set; shift: int64 [C].
#ifndef HWQ_ENGINE_REQUANT_H
#define HWQ_ENGINE_REQUANT_H

#include "convert.h"
#include "scratch.h"
#include "simd.h"

namespace hwq::engine {

__extension__ typedef __int128 int128;

inline Vec load_codes(Type type, const void *p) {
  switch (type) {
  case Type::U8: return widen(static_cast<const uint8_t *>(p));
  case Type::S8: return widen(static_cast<const int8_t *>(p));
  case Type::S16: return widen(static_cast<const int16_t *>(p));
  default: return load(p);
  }
}

// The low BYTES of LANES codes.
template <int BYTES> inline void store_codes(void *p, Vec v) {
  if (BYTES == 1) store_bytes(p, v);
  else if (BYTES == 2) store_words(p, v);
  else store(p, v);
}

// Codes of `count` channels from `first` on, of one pixel. x: term n of them from x + n * step on. `Sum` holds every partial
// sum exactly; quotients are cut to [lo, hi], which fits int64.
template <class Sum, class Factor>
inline void broad(const Op &op, int64_t first, int64_t count, const int64_t *x, int64_t step, int64_t *y) {
  const auto constant = [](const void *array, int64_t i, auto *typed) {
    std::remove_pointer_t<decltype(typed)> value; // 128-bit arrays of numpy may lie on any 8 bytes
    memcpy(&value, static_cast<const char *>(array) + i * int64_t(sizeof value), sizeof value);
    return value;
  };
  const int64_t channels = op.shape[2];
  const int64_t *const shift = static_cast<const int64_t *>(op.shift);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t c = first + i;
    Sum sum = constant(op.bias, c, static_cast<Sum *>(nullptr));
    for (int64_t n = 0; n < op.inputs; ++n) {
      sum += static_cast<Sum>(x[n * step + i]) * constant(op.multipliers, n * channels + c, static_cast<Factor *>(nullptr));
    }
    const Sum quotient = sum >> shift[c];
    y[i] = static_cast<int64_t>(quotient < op.lo ? op.lo : quotient > op.hi ? op.hi : quotient);
  }
}

inline auto broad_of(const Op &op) {
  if (static_cast<Method>(op.method) == Method::LONG) return broad<int64_t, int64_t>;
  return op.wide ? broad<int128, int128> : broad<int128, int64_t>;
}

// The codes of pixel p of the vector from channel `first` on, from uncut constants. Reads no code past the last channel.
template <int N>
__attribute__((noinline)) inline Vec recomputed(const Op &exact, const Rows<const void *> *x, int64_t p, int64_t first) {
  const int64_t rest = exact.shape[2] - first, count = rest < LANES ? rest : LANES;
  int64_t codes[N * LANES], y[LANES];
  int32_t narrowed[LANES] = {};
  for (int n = 0; n < N; ++n) {
    const char *const from = static_cast<const char *>(x[n].data) + (p * x[n].step + first) * type_bytes(x[n].type);
    convert({from, x[n].type, count}, {codes + n * LANES, Type::S64, count}, 1, count);
  }
  broad_of(exact)(exact, first, count, codes, LANES, y);
  convert({y, Type::S64, count}, {narrowed, Type::S32, count}, 1, count);
  return load(narrowed);
}

// Whole vectors are read and written. What the last vector of a row writes past the row's end lies in rows that are
// written after it: the last vectors of all rows come first, and rows, like strips, go upwards.
template <int N, int BYTES, Method METHOD>
inline void narrow(const Op &op, const Rows<const void *> *x, int64_t pixels, void *y) {
  constexpr bool HIGH = METHOD != Method::NARROW, FILTERED = METHOD == Method::FILTERED;
  const int64_t channels = op.shape[2], vectors = round_up(channels, LANES) / LANES;
  const int32_t *const multipliers = static_cast<const int32_t *>(op.multipliers);
  const int64_t *const bias = static_cast<const int64_t *>(op.bias), *const shift = static_cast<const int64_t *>(op.shift);
  const Vec lo = all(static_cast<int32_t>(op.lo)), hi = all(static_cast<int32_t>(op.hi));
  for (int64_t v = vectors - 1; v >= 0; --v) {
    const int64_t c = v * LANES;
    const Sums offset = sums(bias + c), by = HIGH ? offset : sums(shift + c);
    const Vec minus = HIGH ? all(0) : load(op.minus + c), doubt = FILTERED ? load(op.doubt + c) : all(0);
    Vec m[N];
    const char *from[N];
    int64_t step[N];
    for (int n = 0; n < N; ++n) {
      const int64_t bytes = type_bytes(x[n].type);
      m[n] = load(multipliers + n * vectors * LANES + c);
      from[n] = static_cast<const char *>(x[n].data) + c * bytes;
      step[n] = x[n].step * bytes;
    }
    for (int64_t p = 0; p < pixels; ++p) {
      Sums sum = offset;
      for (int n = 0; n < N; ++n) {
        const Vec codes = load_codes(x[n].type, from[n] + p * step[n]);
        sum = multiply_add(sum, HIGH && n > 0 ? raised(codes, op.lift) : codes, m[n]);
      }
      Vec quotient = HIGH ? high(sum) : sub(shifted(sum, by), minus);
      if (FILTERED && __builtin_expect(any_below(low(sum), doubt), false)) quotient = recomputed<N>(*op.exact, x, p, c);
      store_codes<BYTES>(static_cast<char *>(y) + (p * channels + c) * BYTES, least(most(quotient, lo), hi));
    }
  }
}

template <Method METHOD>
inline void narrow_strip(const Op &op, const Rows<const void *> *x, int64_t pixels, void *y) {
  const bool one = op.inputs == 1;
  switch (type_bytes(type_of(op))) {
  case 1: return (one ? narrow<1, 1, METHOD> : narrow<2, 1, METHOD>)(op, x, pixels, y);
  case 2: return (one ? narrow<1, 2, METHOD> : narrow<2, 2, METHOD>)(op, x, pixels, y);
  default: return (one ? narrow<1, 4, METHOD> : narrow<2, 4, METHOD>)(op, x, pixels, y);
  }
}

inline bool is_broad(const Op &op) {
  return static_cast<Method>(op.method) == Method::LONG || static_cast<Method>(op.method) == Method::WIDE;
}

// Terms and codes in int64, for LONG and WIDE.
struct RequantBuffers {
  int64_t *x = nullptr, *y = nullptr;

  RequantBuffers(const Op &op, int64_t pixels, Scratch &scratch) {
    if (!is_broad(op)) return;
    x = scratch.take<int64_t>(op.inputs * pixels * op.shape[2]);
    y = scratch.take<int64_t>(pixels * op.shape[2]);
  }
};

// terms: `pixels` rows each. out: as many rows of the op's type, without gaps.
inline void requant_strip(const Op &op, const Rows<const void *> *terms, int64_t pixels, const RequantBuffers &buffers,
                          void *out) {
  switch (static_cast<Method>(op.method)) {
  case Method::NARROW: return narrow_strip<Method::NARROW>(op, terms, pixels, out);
  case Method::HIGH: return narrow_strip<Method::HIGH>(op, terms, pixels, out);
  case Method::FILTERED: return narrow_strip<Method::FILTERED>(op, terms, pixels, out);
  default: break;
  }
  const int64_t channels = op.shape[2], size = pixels * channels;
  for (int n = 0; n < op.inputs; ++n) {
    convert(terms[n], {buffers.x + n * size, Type::S64, channels}, pixels, channels);
  }
  const auto compute = broad_of(op);
  for (int64_t at = 0; at < size; at += channels) compute(op, 0, channels, buffers.x + at, size, buffers.y + at);
  convert({buffers.y, Type::S64, channels}, {out, type_of(op), channels}, pixels, channels);
}

} // namespace hwq::engine

#endif
