// y = clamp(floor((sum_i x_i M_i + B) / 2^F), lo, hi) a channel, on a strip of pixels that is in the cache.
// B holds the rounding half. docs/numerics.md, "Evaluation"; hwq.ir.Requant aligns the constants.
//
// NARROW: |x|, |M| < 2^31, |sum| < 2^63, |quotient| < 2^31. Sums carry 2^63 as offset (in B), so a logical shift
// does; the low half of (s + 2^63) >> F is that of the quotient plus 2^(63-F), which `minus` takes away again.
//   multipliers: int32 [term][C padded]; minus: int32 [C padded]; lo, hi within int32
//   bias, shift: int64 [vector][LANES], the even lanes of each vector first
// LONG, WIDE: bias [C] of int64 or of 128 bits; multipliers [term][C] of int64, or of 128 bits for WIDE with
// `wide` set; shift: int64 [C].
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

// `Sum` holds every partial sum exactly; quotients are cut to [lo, hi], which fits int64. x: (term, pixels * C).
template <class Sum, class Factor>
inline void broad(const Op &op, const int64_t *x, int64_t pixels, int64_t *y) {
  const int64_t channels = op.shape[2], size = pixels * channels;
  const auto constant = [](const void *array, int64_t i, auto *typed) {
    std::remove_pointer_t<decltype(typed)> value; // 128-bit arrays of numpy may lie on any 8 bytes
    memcpy(&value, static_cast<const char *>(array) + i * int64_t(sizeof value), sizeof value);
    return value;
  };
  const int64_t *const shift = static_cast<const int64_t *>(op.shift);
  for (int64_t first = 0; first < size; first += channels) {
    for (int64_t c = 0; c < channels; ++c) {
      Sum sum = constant(op.bias, c, static_cast<Sum *>(nullptr));
      for (int64_t n = 0; n < op.inputs; ++n) {
        sum += static_cast<Sum>(x[n * size + first + c]) *
               constant(op.multipliers, n * channels + c, static_cast<Factor *>(nullptr));
      }
      const Sum quotient = sum >> shift[c];
      y[first + c] = static_cast<int64_t>(quotient < op.lo ? op.lo : quotient > op.hi ? op.hi : quotient);
    }
  }
}

struct RequantBuffers {
  int32_t *term[MAX_NARROW_TERMS] = {}, *narrow_y = nullptr;
  int64_t *long_x = nullptr, *long_y = nullptr;

  RequantBuffers(const Op &op, int64_t pixels, Scratch &scratch) {
    const int64_t size = pixels * round_up(op.shape[2], LANES);
    if (static_cast<Method>(op.method) == Method::NARROW) {
      for (int n = 0; n < op.inputs; ++n) term[n] = scratch.take<int32_t>(size);
      narrow_y = scratch.take<int32_t>(size);
    } else {
      long_x = scratch.take<int64_t>(op.inputs * size);
      long_y = scratch.take<int64_t>(size);
    }
  }
};

// terms: `pixels` rows each; those of type S32 with a step of whole vectors are read where they lie.
inline void requant_strip(const Op &op, const Rows<const void *> *terms, int64_t pixels, const RequantBuffers &buffers,
                          Rows<void *> out) {
  const int64_t channels = op.shape[2], padded = round_up(channels, LANES);
  if (static_cast<Method>(op.method) != Method::NARROW) {
    for (int n = 0; n < op.inputs; ++n) {
      convert(terms[n], {buffers.long_x + n * pixels * channels, Type::S64, channels}, pixels, channels);
    }
    const bool wide = static_cast<Method>(op.method) == Method::WIDE;
    const auto compute = wide ? op.wide ? broad<int128, int128> : broad<int128, int64_t> : broad<int64_t, int64_t>;
    compute(op, buffers.long_x, pixels, buffers.long_y);
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
