// y = clamp(floor((sum_i x_i M_i + B) / 2^F), lo, hi) a channel, on a strip of pixels that is in the cache.
// B holds the rounding half. docs/numerics.md, "Evaluation"; hwq.ir.Requant aligns the constants.
//
// NARROW: |x|, |M| < 2^31, |sum| < 2^63, |quotient| < 2^31. Sums carry 2^63 as offset (in B), so a logical shift
// does; the low half of (s + 2^63) >> F is that of the quotient plus 2^(63-F), which `minus` takes away again.
//   multipliers: int32 [term][C padded]; minus: int32 [C padded]; lo, hi within int32
//   bias, shift: int64 [vector][LANES], the even lanes of each vector first
// LONG, WIDE: multipliers: [term][C], bias [C] of int64 or of 128 bits; shift: int64 [C].
#ifndef HWQ_ENGINE_REQUANT_H
#define HWQ_ENGINE_REQUANT_H

#include "convert.h"
#include "scratch.h"
#include "simd.h"

namespace hwq::engine {

__extension__ typedef __int128 int128;

constexpr int MAX_NARROW_TERMS = 2;

// Rows of int32, `step` apart, whole vectors; y may be x[0].
template <int N>
inline void narrow(const Op &op, const int32_t *const *x, const int64_t *step, int64_t pixels, int32_t *y, int64_t y_step) {
  const int64_t vectors = round_up(op.shape[2], LANES) / LANES;
  const int32_t *const multipliers = static_cast<const int32_t *>(op.multipliers);
  const int64_t *const bias = static_cast<const int64_t *>(op.bias), *const shift = static_cast<const int64_t *>(op.shift);
  const Vec lo = all(static_cast<int32_t>(op.lo)), hi = all(static_cast<int32_t>(op.hi));
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t c = v * LANES;
    const Sums offset = sums(bias + c), by = sums(shift + c);
    const Vec minus = load(op.minus + c);
    Vec m[N];
    for (int n = 0; n < N; ++n) m[n] = load(multipliers + n * vectors * LANES + c);
    for (int64_t p = 0; p < pixels; ++p) {
      Sums sum = offset;
      for (int n = 0; n < N; ++n) sum = multiply_add(sum, load(x[n] + p * step[n] + c), m[n]);
      const Vec quotient = sub(shifted(sum, by), minus);
      store(y + p * y_step + c, least(most(quotient, lo), hi));
    }
  }
}

// `Sum` holds every partial sum exactly; quotients are cut to [lo, hi], which fits int64.
template <class Sum>
inline void broad(const Op &op, const Rows<const void *> *terms, int64_t pixels, Sum *sum, int64_t *y) {
  const int64_t channels = op.shape[2];
  const char *const multipliers = static_cast<const char *>(op.multipliers);
  const auto constant = [&](const void *array, int64_t i) {
    Sum value; // 128-bit arrays of numpy may lie on any 8 bytes
    memcpy(&value, static_cast<const char *>(array) + i * int64_t(sizeof(Sum)), sizeof(Sum));
    return value;
  };
  for (int64_t p = 0; p < pixels; ++p)
    for (int64_t c = 0; c < channels; ++c) sum[p * channels + c] = constant(op.bias, c);
  for (int64_t n = 0; n < op.inputs; ++n) {
    with_type(terms[n].type, [&](auto *typed) {
      const auto *x = static_cast<decltype(typed)>(terms[n].data);
      for (int64_t p = 0; p < pixels; ++p)
        for (int64_t c = 0; c < channels; ++c)
          sum[p * channels + c] += static_cast<Sum>(x[p * terms[n].step + c]) * constant(multipliers, n * channels + c);
    });
  }
  const int64_t *const shift = static_cast<const int64_t *>(op.shift);
  for (int64_t p = 0; p < pixels; ++p) {
    for (int64_t c = 0; c < channels; ++c) {
      const Sum quotient = sum[p * channels + c] >> shift[c];
      y[p * channels + c] = static_cast<int64_t>(quotient < op.lo ? op.lo : quotient > op.hi ? op.hi : quotient);
    }
  }
}

struct RequantBuffers {
  int32_t *term[MAX_NARROW_TERMS] = {}, *narrow_y = nullptr;
  int64_t *long_sum = nullptr, *long_y = nullptr;
  int128 *wide_sum = nullptr;

  RequantBuffers(const Op &op, int64_t pixels, Scratch &scratch) {
    const int64_t padded = round_up(op.shape[2], LANES);
    switch (static_cast<Method>(op.method)) {
    case Method::NARROW:
      for (int n = 0; n < op.inputs; ++n) term[n] = scratch.take<int32_t>(pixels * padded);
      narrow_y = scratch.take<int32_t>(pixels * padded);
      break;
    case Method::LONG: long_sum = scratch.take<int64_t>(pixels * padded); break;
    default: wide_sum = scratch.take<int128>(pixels * padded);
    }
    if (!narrow_y) long_y = scratch.take<int64_t>(pixels * padded);
  }
};

// terms: `pixels` rows each; those of type S32 with a step of whole vectors are read where they lie.
inline void requant_strip(const Op &op, const Rows<const void *> *terms, int64_t pixels, const RequantBuffers &buffers,
                          Rows<void *> out) {
  const int64_t channels = op.shape[2], padded = round_up(channels, LANES);
  if (static_cast<Method>(op.method) != Method::NARROW) {
    if (buffers.long_sum) broad<int64_t>(op, terms, pixels, buffers.long_sum, buffers.long_y);
    else broad<int128>(op, terms, pixels, buffers.wide_sum, buffers.long_y);
    return convert({buffers.long_y, Type::S64, channels}, out, pixels, channels);
  }
  const int32_t *x[MAX_NARROW_TERMS];
  int64_t step[MAX_NARROW_TERMS];
  for (int n = 0; n < op.inputs; ++n) {
    if (terms[n].type == Type::S32 && terms[n].step >= padded) {
      x[n] = static_cast<const int32_t *>(terms[n].data), step[n] = terms[n].step;
    } else {
      convert(terms[n], {buffers.term[n], Type::S32, padded}, pixels, channels);
      x[n] = buffers.term[n], step[n] = padded;
    }
  }
  if (op.inputs == 1) narrow<1>(op, x, step, pixels, buffers.narrow_y, padded);
  else narrow<2>(op, x, step, pixels, buffers.narrow_y, padded);
  convert({buffers.narrow_y, Type::S32, padded}, out, pixels, channels);
}

} // namespace hwq::engine

#endif
