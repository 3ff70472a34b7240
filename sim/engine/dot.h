// Dot products of PIXELS positions with V vectors of output channels, in registers.
//
// The terms of one sum lie in `segments` contiguous pieces of the input, each `groups` groups of 4 bytes long
// (two int16 or four u8). Weights: [segment][group][V][LANES] groups of 4 bytes, zeros where there is no term.
#ifndef HWQ_ENGINE_DOT_H
#define HWQ_ENGINE_DOT_H

#include "plan.h"
#include "simd.h"

namespace hwq::engine {

struct Terms {
  const int64_t *offset; // bytes from a position's base to each segment
  int64_t segments, groups;
};

struct Words {
  static Vec dot(Vec acc, Vec x, Vec w) { return dot_words(acc, x, w); }
};

#ifdef HWQ_ENGINE_VNNI
struct Bytes {
  static Vec dot(Vec acc, Vec x, Vec w) { return dot_bytes(acc, x, w); }
};
#endif

// x: the first position's base, x_step bytes to the next. acc: V vectors a position, acc_step int32 apart.
template <class D, int P, int V>
inline void dot_block(const char *x, int64_t x_step, const Terms &terms, const char *w, const int32_t *start,
                      int32_t *acc, int64_t acc_step) {
  Vec sum[P][V];
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < V; ++v) sum[p][v] = start ? load(start + v * LANES) : all(0);
  for (int64_t s = 0; s < terms.segments; ++s) {
    const char *at = x + terms.offset[s];
#pragma GCC unroll 2
    for (int64_t k = 0; k < terms.groups; ++k, at += 4, w += V * LANES * 4) {
      Vec weight[V];
      for (int v = 0; v < V; ++v) weight[v] = load(w + v * LANES * 4);
      for (int p = 0; p < P; ++p) {
        const Vec four = four_bytes(at + p * x_step);
        for (int v = 0; v < V; ++v) sum[p][v] = D::dot(sum[p][v], four, weight[v]);
      }
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < V; ++v) store(acc + p * acc_step + v * LANES, sum[p][v]);
}

// `count` positions and `vectors` vectors of output channels: 1, or an even number.
template <class D>
inline void dot_row(const char *x, int64_t x_step, int64_t count, const Terms &terms, const char *w,
                    const int32_t *start, int32_t *acc, int64_t acc_step, int64_t vectors) {
  const int64_t block = vectors == 1 ? 1 : 2;
  for (int64_t v = 0; v < vectors; v += block) {
    const char *const weights = w + v * LANES * 4 * terms.segments * terms.groups;
    const int32_t *const first = start ? start + v * LANES : nullptr;
    int64_t p = 0;
    const auto run = [&](auto dot, int64_t size) {
      for (; p + size <= count; p += size) {
        dot(x + p * x_step, x_step, terms, weights, first, acc + p * acc_step + v * LANES, acc_step);
      }
    };
    if (block == 1) {
      run(dot_block<D, PIXELS, 1>, PIXELS);
      run(dot_block<D, PIXELS / 2, 1>, PIXELS / 2);
      run(dot_block<D, 1, 1>, 1);
    } else {
      run(dot_block<D, PIXELS, 2>, PIXELS);
      run(dot_block<D, PIXELS / 2, 2>, PIXELS / 2);
      run(dot_block<D, 1, 2>, 1);
    }
  }
}

} // namespace hwq::engine

#endif
